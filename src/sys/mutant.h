/*
 * mutant.h - faults that are planted on purpose, for the tests of the tests.
 *
 * Built as usual each of them is the constant 0 and costs nothing. Built with LH_MUTANTS, which only the
 * crash tester does, one of them can be switched on at a time; the tester must notice every one. Each name
 * says what is then done wrong.
 */
#ifndef LH_MUTANT_H
#define LH_MUTANT_H

#define LH_MUTANT_LIST(X)                                                                                    \
	X(LOG_CRC_NOT_CHECKED)                                                                               \
	X(LOG_NOT_FLUSHED)                                                                                   \
	X(LOG_NOT_FENCED)                                                                                    \
	X(LOG_LAST_LINE_NOT_FLUSHED)                                                                         \
	X(LOG_WRAP_NOT_MARKED)                                                                               \
	X(LOG_OVERWRITES_TAIL)                                                                               \
	X(SEQUENCE_REUSED)                                                                                   \
	X(SEQUENCE_NOT_CHECKED)                                                                              \
	X(SALT_KEPT)                                                                                         \
	X(HOLE_TAKEN_FOR_TAIL)                                                                               \
	X(TAIL_TAKEN_FOR_HOLE)                                                                               \
	X(HOME_BEFORE_LOG)                                                                                   \
	X(HOME_NOT_FLUSHED)                                                                                  \
	X(HOME_NOT_FENCED)                                                                                   \
	X(CHECKPOINT_TOO_EARLY)                                                                              \
	X(CHECKPOINT_TOO_FAR)                                                                                \
	X(CHECKPOINT_SKIPS_RECORD)                                                                           \
	X(HEADER_NOT_FLUSHED)                                                                                \
	X(HEADER_NOT_FENCED)                                                                                 \
	X(HEADER_IN_PLACE)                                                                                   \
	X(HEADER_OLDER_CHOSEN)                                                                               \
	X(HEADER_CRC_NOT_CHECKED)                                                                            \
	X(RECOVERY_FORGETS_LAST)                                                                             \
	X(RECOVERY_NOT_SYNCED)                                                                               \
	X(UNDO_AFTER_STORE)                                                                                  \
	X(UNDO_FORWARD)                                                                                      \
	X(UNDO_END_BEFORE_HOME)                                                                              \
	X(UNDO_HOME_NOT_FLUSHED)                                                                             \
	X(UNDO_END_NOT_FENCED)                                                                               \
	X(UNDO_COMMITTED_TOO)                                                                                \
	X(CLOSE_WITHOUT_CHECKPOINT)                                                                          \
	X(SEES_NO_PLAIN)                                                                                     \
	X(SEES_NO_POP)                                                                                       \
	X(SEES_NO_REPEATED)                                                                                  \
	X(SEES_NO_VECTOR)                                                                                    \
	X(SEES_NO_MASKED)                                                                                    \
	X(SEES_NO_ATOMIC)                                                                                    \
	X(SEES_NO_STATE)                                                                                     \
	X(SEES_NO_STREAMED)                                                                                  \
	X(SEES_NO_SCATTERED)

#ifdef LH_MUTANTS
enum lh_mutant {
	LH_MUTANT_NONE,
#define LH_MUTANT_NAME(name) LH_MUTANT_##name,
	LH_MUTANT_LIST(LH_MUTANT_NAME)
#undef LH_MUTANT_NAME
		LH_MUTANT_COUNT
};
/* The crash tester's; LH_MUTANT_NONE: the code as it is. */
extern enum lh_mutant lh__mutant;
#define LH_MUTANT(name) __builtin_expect(lh__mutant == LH_MUTANT_##name, 0)
#else
#define LH_MUTANT(name) 0
#endif

#endif
