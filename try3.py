import sys,time; sys.path.insert(0,'tests/guest')
import guest, move
s=guest.Shape()
def one(name, words, f):
    with guest.Place('m_guest') as place:
        src=guest.Machine(place,s).source(words, ticks=250)
        m=f(place,src); print(name, words, m.felt(), m.went_on(), m.bad(), flush=True)
w='wmb=256 hot=32 wper=%d'
for wper in (64,0):
    one('shared', w%wper, lambda p,x: move.shared(p,x))
    for bw in (0,125000000):
        for pre in (False,True):
            one('native bw=%d pre=%s'%(bw,pre), w%wper, lambda p,x: move.native(p,x,pre,bw))
