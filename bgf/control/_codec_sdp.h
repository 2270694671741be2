/* SPDX-License-Identifier: Apache-2.0 */
/* A session description taken apart: where its lines are, and what its m-lines say. */
#ifndef BGF_CODEC_SDP_H
#define BGF_CODEC_SDP_H

#include "_codec.h"

#include <stdint.h>

#define SECTIONS_MAX 16
#define TYPES_MAX 32 /* payload types of one m-line */
#define DTMF_MAX 64
#define WORD_MAX 64 /* of an m-line's media and transport */
#define MARKS_MAX 8

/* A stretch of the description. */
struct span {
	const char *data;
	size_t len;
};

enum kind { PLAIN, REMOVED, SESSION_C, SECTION_C, RTCP_LINE, MUX_LINE };

struct line {
	struct span text; /* without its end */
	uint8_t kind;
	uint8_t section; /* of what is not PLAIN */
	uint8_t cr;	 /* a carriage return stood before the line feed */
};

struct credentials {
	struct span ufrag;
	struct span pwd;
};

struct section {
	size_t at; /* lines */
	size_t last;
	size_t first_c; /* 0: none. The first line of a description is never one of these */
	size_t first_rtcp;
	struct span word;
	struct span transport;
	struct credentials credentials;
	PyObject *host; /* ours; NULL: none is stated */
	PyObject *rtcp_host;
	int port;
	int rtcp_port; /* -1: not stated */
	unsigned int clock_hz; /* 0: not stated */
	unsigned int types_count;
	unsigned int dtmf_count;
	uint8_t types[TYPES_MAX];
	uint8_t dtmf[DTMF_MAX];
	uint8_t direction;
	uint8_t carried;
	uint8_t several; /* ports */
	uint8_t mux;
	uint8_t mux_only;
	uint8_t dtls;
	uint8_t bundled;
};

struct description {
	struct line *lines;
	size_t count;
	struct section sections[SECTIONS_MAX];
	size_t sections_count;
	size_t origin; /* 0: none */
	size_t session_c_count;
	struct credentials credentials;
	struct span marks[MARKS_MAX];
	size_t marks_count;
	PyObject *host; /* of the session; ours */
	int dtls;
	uint8_t direction;
	PyObject *read_host; /* (text, line) -> canonical host, or raises */
	PyObject *refuse;    /* (what, line, text): raises, or lets it pass */
};

extern const char *const sdp_directions[4];

int sdp_begins(struct span text, const char *with);
/* Is it left as it is? Its ends talk to each other directly. */
int sdp_passes(const struct section *section);
/* Text of a stretch; bytes that are not UTF-8 become lone surrogates. */
PyObject *sdp_text(struct span span);
/* 0, or -1 with an error; `sdp_close` in both cases. */
int sdp_open(struct description *sdp, struct span text, PyObject *read_host, PyObject *refuse);
void sdp_close(struct description *sdp);

extern PyMethodDef codec_sdp_methods[];
extern PyMethodDef codec_rewrite_methods[];

#endif
