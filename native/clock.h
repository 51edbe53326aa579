/* Monotonic time in milliseconds. */
#ifndef CRYO_CLOCK_H
#define CRYO_CLOCK_H

long long now_ms(void);

/* What is left until `deadline_ms`, never negative and fit for poll(2); -1 where it is 0: no end. */
int left_ms(long long deadline_ms);

#endif
