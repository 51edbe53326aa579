/* Bytes that grow, up to a limit. */
#ifndef CRYO_BUFFER_H
#define CRYO_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

struct buffer {
	char *data;
	size_t length;
	size_t room;
};

/* Make room for so many more bytes; false without memory. */
bool buffer_reserve(struct buffer *buffer, size_t more);
bool buffer_add(struct buffer *buffer, const void *data, size_t length);
/* Add a text with its final NUL. */
bool buffer_text(struct buffer *buffer, const char *text);
bool buffer_number(struct buffer *buffer, unsigned long number);
/* Add what a descriptor has, up to its end or `limit` bytes; false when it cannot be read. */
bool buffer_read(struct buffer *buffer, int fd, size_t limit);
/* Write all of it; false when that fails. */
bool write_all(int fd, const char *data, size_t length);

#endif
