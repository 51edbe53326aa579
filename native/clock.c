#define _GNU_SOURCE
#include "clock.h"

#include <limits.h>
#include <time.h>

long long now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

int left_ms(long long deadline_ms)
{
	if (!deadline_ms)
		return -1;
	long long left = deadline_ms - now_ms();
	if (left <= 0)
		return 0;
	return left < INT_MAX ? (int)left : INT_MAX;
}
