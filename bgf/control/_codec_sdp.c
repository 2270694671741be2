/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session description line by line (RFC 8866): what a border gateway must read of it.
 *
 * Knows: the lines that matter, and their grammar. Must not know what follows from them, nor how a
 * refusal is worded: both are the caller's (bgf.control.sdp). The text has no NUL and no carriage
 * return without a line feed, and begins with "v=".
 */
#include "_codec_sdp.h"

#include <stdlib.h>
#include <string.h>

#define PORT_DIGITS_MAX 5
#define PORT_MAX 65535
#define TYPE_DIGITS_MAX 3
#define TYPE_MAX 127
#define CLOCK_DIGITS_MAX 6 /* 768 kHz is the fastest in use */
#define LETTER_BYTES_MAX 8

const char *const sdp_directions[4] = {"sendrecv", "sendonly", "recvonly", "inactive"};

/* Lines that do not go on: other candidates, bundling, other addresses of the same kind. */
static const char *const removed[] = {
	"a=candidate:", "a=remote-candidates:", "a=ice-", "a=end-of-candidates", "a=group:BUNDLE",
	"a=bundle-only", "a=altc:", "a=ccap:", "a=alt:",
};

static const char telephone_event[] = "telephone-event/"; /* RFC 4733 */

static struct span rest(struct span text, size_t from)
{
	return (struct span){text.data + from, text.len - from};
}

int sdp_begins(struct span text, const char *with)
{
	size_t len = strlen(with);

	return text.len >= len && !memcmp(text.data, with, len);
}

static int equals(struct span text, const char *with)
{
	return text.len == strlen(with) && !memcmp(text.data, with, text.len);
}

static int is_digit(char byte)
{
	return byte >= '0' && byte <= '9';
}

static int is_space(char byte)
{
	return byte == ' ' || (byte >= '\t' && byte <= '\r') || (byte >= 0x1c && byte <= 0x1f);
}

static struct span stripped(struct span text)
{
	while (text.len && is_space(text.data[0]))
		text = rest(text, 1);
	while (text.len && is_space(text.data[text.len - 1]))
		text.len--;
	return text;
}

/* What stands before a byte; `*text` is what follows it, nothing when it is not there. */
static struct span until(struct span *text, char byte)
{
	const char *found = text->len ? memchr(text->data, byte, text->len) : NULL;
	struct span before = *text;

	if (found)
		before.len = (size_t)(found - text->data);
	*text = rest(*text, found ? before.len + 1 : before.len);
	return before;
}

/* The number that these digits are; -1 when they are none, or too many. */
static long digits(struct span text, size_t most)
{
	long value = 0;
	size_t i;

	if (!text.len || text.len > most)
		return -1;
	for (i = 0; i < text.len; i++) {
		if (!is_digit(text.data[i]))
			return -1;
		value = value * 10 + (text.data[i] - '0');
	}
	return value;
}

PyObject *sdp_text(struct span span)
{
	return PyUnicode_DecodeUTF8(span.data, (Py_ssize_t)span.len, "surrogateescape");
}

/* The caller's word on something that is wrong with a line: 0 when he lets it pass. */
static int wrong(struct description *sdp, const char *what, size_t at, struct span text)
{
	PyObject *shown = sdp_text(text), *said = NULL;

	if (shown)
		said = PyObject_CallFunction(sdp->refuse, "snO", what, (Py_ssize_t)at + 1, shown);
	Py_XDECREF(shown);
	Py_XDECREF(said);
	return said ? 0 : -1;
}

static PyObject *host_of(struct description *sdp, struct span text, size_t at)
{
	PyObject *value = sdp_text(text), *host = NULL;

	if (value)
		host = PyObject_CallFunction(sdp->read_host, "On", value, (Py_ssize_t)at + 1);
	Py_XDECREF(value);
	return host;
}

static int port_of(struct description *sdp, struct span text, size_t at, int *port)
{
	size_t i;

	*port = (int)digits(text, PORT_DIGITS_MAX);
	if (*port >= 0 && *port <= PORT_MAX)
		return 0;
	for (i = 0; i < text.len && is_digit(text.data[i]); i++)
		;
	return wrong(sdp, text.len && i == text.len ? "port" : "port-number", at, text) ? -1 : 0;
}

static int is_word(struct span text)
{
	size_t i;

	for (i = 0; i < text.len; i++)
		if (text.data[i] < ' ' || text.data[i] > '~')
			return 0;
	return text.len && text.len <= WORD_MAX;
}

/* As if in capitals. */
static int begins_whatever_case(struct span text, const char *with)
{
	size_t i, len = strlen(with);

	if (text.len < len)
		return 0;
	for (i = 0; i < len; i++) {
		char byte = text.data[i];

		if ((byte >= 'a' && byte <= 'z' ? byte - 'a' + 'A' : byte) != with[i])
			return 0;
	}
	return 1;
}

static void read_types(struct section *section, struct span formats)
{
	unsigned int words = 0;

	if (!begins_whatever_case(section->transport, "RTP/") &&
	    !begins_whatever_case(section->transport, "UDP/TLS/RTP/"))
		return;
	while (words < TYPES_MAX) {
		struct span word;
		long type;
		size_t len = 0;

		while (formats.len && is_space(formats.data[0]))
			formats = rest(formats, 1);
		while (len < formats.len && !is_space(formats.data[len]))
			len++;
		if (!len)
			return;
		word = (struct span){formats.data, len};
		formats = rest(formats, len);
		words++;
		type = digits(word, TYPE_DIGITS_MAX);
		if (type >= 0 && type <= TYPE_MAX)
			section->types[section->types_count++] = (uint8_t)type;
	}
}

/* m=audio 49170 RTP/AVP 0 8 (RFC 8866 section 5.14) */
static int read_media(struct description *sdp, struct section *section, size_t at, struct span line)
{
	struct span left = rest(line, 2), ports, tail;
	int kind_ok;

	section->at = section->last = at;
	section->rtcp_port = -1;
	section->direction = sdp->direction;
	section->word = until(&left, ' ');
	ports = until(&left, ' ');
	section->transport = until(&left, ' ');
	if (!section->transport.len)
		return wrong(sdp, "m-line", at, line) ? -1 : 0;
	kind_ok = is_word(section->word);
	if (!kind_ok || !is_word(section->transport))
		return wrong(sdp, "word", at, kind_ok ? section->transport : section->word) ? -1 : 0;
	tail = ports;
	ports = until(&tail, '/');
	section->several = tail.data != ports.data + ports.len;
	if (port_of(sdp, ports, at, &section->port))
		return -1;
	section->carried = (begins_whatever_case(section->transport, "RTP/") ||
			    begins_whatever_case(section->transport, "UDP")) &&
			   !(section->transport.len >= 4 &&
			     begins_whatever_case(rest(section->transport, section->transport.len - 4),
						  "/TCP"));
	read_types(section, left);
	return 0;
}

int sdp_passes(const struct section *section)
{
	return section->port && !section->carried;
}

static void read_credentials(struct credentials *known, struct span line)
{
	static const char ufrag[] = "a=ice-ufrag:", pwd[] = "a=ice-pwd:";

	if (sdp_begins(line, ufrag)) {
		if (!known->ufrag.len)
			known->ufrag = stripped(rest(line, sizeof(ufrag) - 1));
	} else if (sdp_begins(line, pwd)) {
		if (!known->pwd.len)
			known->pwd = stripped(rest(line, sizeof(pwd) - 1));
	}
}

/* ICE of one m-line or of all, or bundling. */
static void take_out(struct description *sdp, struct section *section, struct line *line)
{
	if (!section) {
		read_credentials(&sdp->credentials, line->text);
	} else if (sdp_passes(section)) {
		return;
	} else {
		read_credentials(&section->credentials, line->text);
		section->bundled |= (uint8_t)sdp_begins(line->text, "a=bundle-only");
	}
	line->kind = REMOVED;
}

static void read_mark(struct description *sdp, struct span group)
{
	if ((!group.len || is_word(group)) && sdp->marks_count < MARKS_MAX)
		sdp->marks[sdp->marks_count++] = group;
}

static int direction_of(struct span word)
{
	int i;

	for (i = 0; i < 4; i++)
		if (equals(word, sdp_directions[i]))
			return i;
	return -1;
}

/* a=rtpmap:96 AMR-WB/16000/1 (RFC 8866 section 6.6): the clock of the first format, and which of
 * them are telephone events */
static void read_rtpmap(struct section *section, struct span left)
{
	struct span number = until(&left, ' '), encoding = left, clock;
	long type = digits(number, TYPE_DIGITS_MAX), hz;
	int plain = type >= 0 && (number.len == 1 || number.data[0] != '0');
	unsigned int i;

	if (!plain)
		return;
	if (begins_whatever_case(encoding, "TELEPHONE-EVENT/") &&
	    encoding.len >= sizeof(telephone_event) - 1)
		for (i = 0; i < section->types_count; i++)
			if (section->types[i] == type && section->dtmf_count < DTMF_MAX)
				section->dtmf[section->dtmf_count++] = (uint8_t)type;
	if (section->types[0] != type)
		return;
	until(&left, '/');
	clock = until(&left, '/');
	hz = digits(stripped(clock), CLOCK_DIGITS_MAX);
	if (hz > 0)
		section->clock_hz = (unsigned int)hz;
}

static int read_rtcp(struct description *sdp, struct section *section, size_t at, struct line *line)
{
	struct span stated = stripped(rest(line->text, 7)), port = until(&stated, ' ');

	line->kind = RTCP_LINE;
	if (!section->first_rtcp)
		section->first_rtcp = at;
	if (port_of(sdp, port, at, &section->rtcp_port))
		return -1;
	if (!stated.len)
		return 0;
	Py_XDECREF(section->rtcp_host);
	section->rtcp_host = host_of(sdp, stated, at);
	return section->rtcp_host ? 0 : -1;
}

static int read_attribute(struct description *sdp, struct section *section, size_t at, struct line *line)
{
	struct span text = line->text;
	int direction = direction_of(rest(text, 2));

	if (direction >= 0) {
		section->direction = (uint8_t)direction;
	} else if (sdp_begins(text, "a=rtcp:")) {
		return read_rtcp(sdp, section, at, line);
	} else if (equals(text, "a=rtcp-mux") || equals(text, "a=rtcp-mux-only")) {
		line->kind = MUX_LINE;
		section->mux = 1;
		section->mux_only |= (uint8_t)equals(text, "a=rtcp-mux-only");
	} else if (sdp_begins(text, "a=fingerprint:")) {
		section->dtls = 1;
	} else if (sdp_begins(text, "a=rtpmap:") && section->types_count) {
		read_rtpmap(section, rest(text, 9));
	}
	return 0;
}

static int attribute(struct description *sdp, struct section *section, size_t at, struct line *line)
{
	struct span text = line->text;
	int direction;
	size_t i;

	/* One look at the third character spares most attributes everything else. */
	if (text.len < 3 || !strchr("creigbafxs", text.data[2]))
		return 0;
	for (i = 0; i < sizeof(removed) / sizeof(removed[0]); i++)
		if (sdp_begins(text, removed[i])) {
			take_out(sdp, section, line);
			return 0;
		}
	if (sdp_begins(text, "a=x-bgf-loop:")) {
		read_mark(sdp, rest(text, 13));
		return 0;
	}
	if (section)
		return read_attribute(sdp, section, at, line);
	if (sdp_begins(text, "a=fingerprint:")) {
		sdp->dtls = 1;
		return 0;
	}
	direction = direction_of(rest(text, 2));
	if (direction >= 0)
		sdp->direction = (uint8_t)direction;
	return 0;
}

/* c=IN IP4 1.2.3.4: of a level the first counts */
static int connection(struct description *sdp, struct section *section, size_t at, struct line *line)
{
	PyObject *host = host_of(sdp, rest(line->text, 2), at), **kept;

	if (!host)
		return -1;
	line->kind = section ? SECTION_C : SESSION_C;
	kept = section ? &section->host : &sdp->host;
	if (section && !section->first_c) {
		section->first_c = at;
		Py_CLEAR(section->host);
	}
	sdp->session_c_count += !section;
	if (*kept)
		Py_DECREF(host);
	else
		*kept = host;
	return 0;
}

/* 1: the line counts as part of its m-line, 0: it is empty, -1: an error. */
static int one_line(struct description *sdp, struct section **section, size_t at)
{
	struct line *line = &sdp->lines[at];
	struct span text = line->text;
	char letter = text.len ? text.data[0] : '\0';
	int err = 0;

	if (!text.len)
		return 0;
	if (text.len < 2 || text.data[1] != '=' ||
	    !((letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z')))
		return wrong(sdp, "line", at, text) ? -1 : 1;
	switch (letter) {
	case 'a':
		err = attribute(sdp, *section, at, line);
		break;
	case 'm':
		if (sdp->sections_count == SECTIONS_MAX)
			return wrong(sdp, "m-lines", at, text) ? -1 : 1;
		*section = &sdp->sections[sdp->sections_count++];
		err = read_media(sdp, *section, at, text);
		if (sdp->host)
			(*section)->host = Py_NewRef(sdp->host);
		break;
	case 'c':
		err = connection(sdp, *section, at, line);
		break;
	case 'o':
		if (!sdp->origin)
			sdp->origin = at;
		break;
	default:
		break;
	}
	line->section = (uint8_t)(sdp->sections_count ? sdp->sections_count - 1 : 0);
	return err ? -1 : 1;
}

static int divide(struct description *sdp, struct span text)
{
	struct span left = text;
	size_t at;

	sdp->count = 1;
	for (at = 0; at < text.len; at++)
		sdp->count += text.data[at] == '\n';
	sdp->lines = PyMem_Calloc(sdp->count, sizeof(*sdp->lines));
	if (!sdp->lines) {
		PyErr_NoMemory();
		return -1;
	}
	for (at = 0; at < sdp->count; at++) {
		struct line *line = &sdp->lines[at];

		line->text = until(&left, '\n');
		if (line->text.len && line->text.data[line->text.len - 1] == '\r') {
			line->text.len--;
			line->cr = 1;
		}
	}
	return 0;
}

int sdp_open(struct description *sdp, struct span text, PyObject *read_host, PyObject *refuse)
{
	struct section *section = NULL;
	size_t at;

	memset(sdp, 0, sizeof(*sdp));
	sdp->read_host = read_host;
	sdp->refuse = refuse;
	if (divide(sdp, text))
		return -1;
	for (at = 0; at < sdp->count; at++) {
		int counts = one_line(sdp, &section, at);

		if (counts < 0)
			return -1;
		if (counts && section)
			section->last = at;
	}
	return 0;
}

void sdp_close(struct description *sdp)
{
	size_t i;

	for (i = 0; i < sdp->sections_count; i++) {
		Py_CLEAR(sdp->sections[i].host);
		Py_CLEAR(sdp->sections[i].rtcp_host);
	}
	Py_CLEAR(sdp->host);
	PyMem_Free(sdp->lines);
	sdp->lines = NULL;
}

/* What was read, as Python has it. */

static PyObject *interned(struct span word)
{
	PyObject *text = sdp_text(word);

	if (text)
		PyUnicode_InternInPlace(&text);
	return text;
}

static PyObject *numbers(const uint8_t *values, unsigned int count)
{
	PyObject *made = PyTuple_New(count), *one;
	unsigned int i;

	for (i = 0; made && i < count; i++) {
		one = PyLong_FromLong(values[i]);
		if (!one || PyTuple_SetItem(made, i, one))
			Py_CLEAR(made);
	}
	return made;
}

static PyObject *told(const struct description *sdp, const struct section *section)
{
	const struct credentials *own = &section->credentials, *shared = &sdp->credentials;

	return Py_BuildValue(
		"(nNNiNOiNOiiiiNINiNN)", (Py_ssize_t)section->at, interned(section->word),
		interned(section->transport), section->port, PyBool_FromLong(section->carried),
		section->host ? section->host : Py_None, (int)section->several,
		PyUnicode_InternFromString(sdp_directions[section->direction]),
		section->rtcp_host ? section->rtcp_host : Py_None, section->rtcp_port,
		(int)section->mux, (int)section->mux_only, (int)(section->dtls || sdp->dtls),
		numbers(section->types, section->types_count), section->clock_hz,
		numbers(section->dtmf, section->dtmf_count), (int)section->bundled,
		sdp_text(own->ufrag.len ? own->ufrag : shared->ufrag),
		sdp_text(own->pwd.len ? own->pwd : shared->pwd));
}

static PyObject *all_told(const struct description *sdp)
{
	PyObject *sections = PyList_New(0), *marks = PyTuple_New((Py_ssize_t)sdp->marks_count), *one;
	size_t i;
	int err = !sections || !marks;

	for (i = 0; !err && i < sdp->sections_count; i++) {
		one = told(sdp, &sdp->sections[i]);
		err = one ? PyList_Append(sections, one) : -1;
		Py_XDECREF(one);
	}
	for (i = 0; !err && i < sdp->marks_count; i++) {
		one = sdp_text(sdp->marks[i]);
		err = one ? PyTuple_SetItem(marks, (Py_ssize_t)i, one) : -1;
	}
	if (!err)
		return Py_BuildValue("(NN)", sections, marks);
	Py_XDECREF(sections);
	Py_XDECREF(marks);
	return NULL;
}

static PyObject *py_read_sdp(PyObject *self, PyObject *args)
{
	PyObject *read_host, *refuse, *found = NULL;
	struct description sdp;
	struct span text;
	Py_ssize_t len;

	(void)self;
	if (!PyArg_ParseTuple(args, "y#OO", &text.data, &len, &read_host, &refuse))
		return NULL;
	text.len = (size_t)len;
	if (!sdp_open(&sdp, text, read_host, refuse))
		found = all_told(&sdp);
	sdp_close(&sdp);
	return found;
}

PyMethodDef codec_sdp_methods[] = {
	{"read_sdp", py_read_sdp, METH_VARARGS,
	 "read_sdp(text, read_host, refuse) -> ([m-line, ...], (loop mark, ...))\n\n"
	 "What a description says. `read_host(value, line)` gives the host of a c= or a=rtcp: line,\n"
	 "`refuse(what, line, text)` raises what is wrong with a line, or lets it pass."},
	{NULL, NULL, 0, NULL},
};
