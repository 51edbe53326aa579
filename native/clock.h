/* Monotonic time in milliseconds. */
#ifndef CRYO_CLOCK_H
#define CRYO_CLOCK_H

long long now_ms(void);

/* Time left until `deadline_ms`, never negative, for poll(2); -1 if it is 0: no timeout. */
int left_ms(long long deadline_ms);

#endif
