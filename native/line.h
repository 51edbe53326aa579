/* JSON lines on standard output, each written whole. */
#ifndef CRYO_LINE_H
#define CRYO_LINE_H

#include <stdbool.h>
#include <stddef.h>

struct line {
	char text[1024];
	size_t length;
};

void line_begin(struct line *line);
void line_text(struct line *line, const char *key, const char *value);
void line_number(struct line *line, const char *key, long long value);
void line_bool(struct line *line, const char *key, bool value);
/* Write the line; fields that did not fit were left out. */
void line_end(struct line *line);

#endif
