/*
 * orders.h - what `linehome atomic` tells its agent, in one variable of the environment: lines, of which the
 * first letter says what the rest is.
 */
#ifndef LH_SERVICE_ATOMIC_ORDERS_H
#define LH_SERVICE_ATOMIC_ORDERS_H

#define LH_ORDERS_ENVIRONMENT "LINEHOME_ATOMIC"
#define LH_ORDERS_MAX 64u /* names of one kind */

#define LH_ORDER_BEGIN 'b'   /* a function's name */
#define LH_ORDER_END 'e'     /* the same */
#define LH_ORDER_LOG 'l'     /* a digit, of enum lh_log */
#define LH_ORDER_CALLS 'c'   /* a digit, of enum lh_atomic_calls */
#define LH_ORDER_UNDONE 'u'  /* nothing: where a transaction was undone the program ends */
#define LH_ORDER_POOL 'p'    /* a path */
#define LH_ORDER_PRELOAD 'o' /* the variable LD_PRELOAD as it was */

#endif
