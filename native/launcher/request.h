/* What the fork server is sent: the mark, the length of the rest, and how this program was started. */
#ifndef CRYO_REQUEST_H
#define CRYO_REQUEST_H

#include <stdbool.h>

#include "buffer.h"

enum { STDIN_LIMIT = 4 << 20 };

/* Write the request with what was read from stdin; false if it cannot be sent. */
bool request_write(struct buffer *out, char **words, const struct buffer *given);

#endif
