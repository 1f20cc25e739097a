/* blob.S - the inside agent, as the build has linked it. See blob.h. LH_BLOB is its path. */
	.section .rodata
	.balign	64
	.globl	lh__inside_blob, lh__inside_blob_end
	.hidden	lh__inside_blob, lh__inside_blob_end
	.type	lh__inside_blob, @object
lh__inside_blob:
	.incbin LH_BLOB
lh__inside_blob_end:
	.size	lh__inside_blob, . - lh__inside_blob
	.section .note.GNU-stack, "", @progbits
