/* A call of the fork server. */
#ifndef CRYO_CALL_H
#define CRYO_CALL_H

#include <stdbool.h>
#include <stddef.h>

#include "buffer.h"

struct answer {
	int status;
	const char *out;
	size_t out_length;
	const char *err;
	size_t err_length;
};

/* How long to wait for a sign that the fork server works, and then for its answer. */
struct patience {
	int begin_ms;
	int answer_ms;
};

/* Send a request to the socket at `path`; false if no whole answer came. `kept` has its texts. */
bool call(const char *path, const struct buffer *request, struct patience patience,
	  struct buffer *kept, struct answer *answer);

#endif
