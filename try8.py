import sys,time; sys.path.insert(0,'tests/guest')
import guest, move
s=guest.Shape()
for far in (False,True):
 for mode in ('postcopy','precopy-then-postcopy'):
  with guest.Place('m_guest') as place:
   m=guest.Machine(place,s).source('wmb=128 hot=16 wper=128 disk=1')
   l=move.Linehome(place,m,far=far); l.run(mode=mode)
   try:
     x=l.done(20); print(far,mode,x.felt(2.5)); print(x.bad(), x.went_on())
   except Exception as e: print(far,mode,repr(e)[:1500])
   finally: print(l.text()); l.destination.log.seek(0); print(l.destination.log.read())
