/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session description for the far side: our addresses in place of its own, all else as it came.
 *
 * Knows: which lines change (bgf.control.sdp says why), and how their successors are written. Must
 * not know where the addresses come from.
 */
#include "_codec_sdp.h"

#include <string.h>

/* What an m-line must say. Hosts are borrowed from the caller's objects. */
struct wanted {
	const char *host;
	int port;
	const char *rtcp_host; /* NULL: none is stated */
	int rtcp_port;
	int mux;
	struct span ice; /* lines, each with its line feed */
	int shown;	 /* an unspecified host is no hold here: ours takes its place */
};

/* A line's successor, and what follows it; stretches of the two buffers. */
struct edit {
	uint8_t changed;
	uint8_t dropped;
	size_t at, len;
	size_t more_at, more_len; /* lines, each with its line feed */
};

struct rewriting {
	struct description sdp;
	struct wanted wanted[SECTIONS_MAX];
	struct edit *edits;
	struct out texts;
	struct out added;
	const char *ours;
	struct span whole; /* lines of the session */
	int replace_origin;
	int rtcp_attribute;
	int shown; /* as for an m-line, of the session */
};

static int is_ip6(const char *host)
{
	return strchr(host, ':') != NULL;
}

static int put_text(struct out *out, const char *text)
{
	return out_put(out, text, strlen(text));
}

/* IN IP6 fd00::1 */
static int put_stated(struct out *out, const char *host)
{
	return put_text(out, is_ip6(host) ? "IN IP6 " : "IN IP4 ") || put_text(out, host) ? -1 : 0;
}

static void drop(struct rewriting *all, size_t at)
{
	all->edits[at].dropped = 1;
}

static struct edit *change(struct rewriting *all, size_t at)
{
	struct edit *edit = &all->edits[at];

	edit->changed = 1;
	edit->dropped = 0;
	edit->at = all->texts.len;
	return edit;
}

static int changed(struct rewriting *all, struct edit *edit, int err)
{
	edit->len = all->texts.len - edit->at;
	return err ? -1 : 0;
}

/* Lines that follow one line are added in one go, or directly after each other. */
static struct edit *follow(struct rewriting *all, size_t at)
{
	struct edit *edit = &all->edits[at];

	if (!edit->more_len)
		edit->more_at = all->added.len;
	return edit;
}

static int followed(struct rewriting *all, struct edit *edit, int err)
{
	edit->more_len = all->added.len - edit->more_at;
	return err ? -1 : 0;
}

/* Our host, or the unspecified one of our family where the line says hold. */
static int put_connection(struct rewriting *all, size_t at, const char *ours, int shown)
{
	struct span value = {all->sdp.lines[at].text.data + 2, all->sdp.lines[at].text.len - 2};
	PyObject *text = sdp_text(value), *host = NULL;
	struct edit *edit = change(all, at);
	const char *said = NULL;
	Py_ssize_t len;
	int err = -1;

	if (text)
		host = PyObject_CallFunction(all->sdp.read_host, "On", text, (Py_ssize_t)at + 1);
	if (host)
		said = PyUnicode_AsUTF8AndSize(host, &len);
	if (said) {
		if (!shown && (!strcmp(said, "0.0.0.0") || !strcmp(said, "::")))
			ours = is_ip6(ours) ? "::" : "0.0.0.0";
		err = put_text(&all->texts, "c=") || put_stated(&all->texts, ours);
	}
	Py_XDECREF(text);
	Py_XDECREF(host);
	return changed(all, edit, err);
}

/* A c= line of an m-line follows it, and its i= if it has one. */
static int add_connection(struct rewriting *all, const struct section *section, const char *host)
{
	size_t next = section->at + 1;
	int titled = next < all->sdp.count && sdp_begins(all->sdp.lines[next].text, "i=");
	struct edit *edit = follow(all, section->at + (titled ? 1 : 0));
	int err = put_text(&all->added, "c=") || put_stated(&all->added, host) ||
		  put_text(&all->added, "\n");

	return followed(all, edit, err);
}

/* o=alice 1 1 IN IP4 host */
static int put_origin(struct rewriting *all)
{
	struct span line = all->sdp.lines[all->sdp.origin].text;
	size_t i, spaces = 0, kept = 0;
	struct edit *edit;

	for (i = 0; i < line.len; i++)
		if (line.data[i] == ' ' && ++spaces == 4)
			kept = i + 1;
	if (spaces != 5)
		return 0;
	edit = change(all, all->sdp.origin);
	return changed(all, edit,
		       out_put(&all->texts, line.data, kept) ||
			       put_text(&all->texts, is_ip6(all->ours) ? "IP6 " : "IP4 ") ||
			       put_text(&all->texts, all->ours));
}

static int put_media(struct rewriting *all, const struct section *section, int port)
{
	struct span line = all->sdp.lines[section->at].text;
	const char *first = memchr(line.data, ' ', line.len);
	const char *second = first ? memchr(first + 1, ' ', line.len - (size_t)(first + 1 - line.data)) : NULL;
	struct edit *edit = change(all, section->at);
	int err = 1;

	if (second)
		err = out_put(&all->texts, line.data, (size_t)(first + 1 - line.data)) ||
		      out_number(&all->texts, port) ||
		      out_put(&all->texts, second, (size_t)(line.data + line.len - second));
	return changed(all, edit, err);
}

static int put_rtcp(struct out *out, const struct wanted *wanted, int with_host)
{
	if (put_text(out, "a=rtcp:") || out_number(out, wanted->rtcp_port))
		return -1;
	return with_host && (put_text(out, " ") || put_stated(out, wanted->rtcp_host)) ? -1 : 0;
}

/* The section's RTCP lines, and what is added at its end. */
static int put_tail(struct rewriting *all, const struct section *section, const struct wanted *wanted)
{
	int elsewhere = wanted->rtcp_host && strcmp(wanted->rtcp_host, wanted->host) != 0;
	int states = all->rtcp_attribute && wanted->rtcp_host && wanted->port;
	struct edit *edit;
	int err = 0;

	if (states && section->first_rtcp) {
		edit = change(all, section->first_rtcp);
		err = changed(all, edit,
			      put_rtcp(&all->texts, wanted, elsewhere || section->rtcp_host));
	}
	edit = follow(all, section->last);
	if (states && !section->first_rtcp && (elsewhere || wanted->rtcp_port != wanted->port + 1))
		err |= put_rtcp(&all->added, wanted, elsewhere) || put_text(&all->added, "\n");
	if (wanted->port && wanted->mux && !section->mux)
		err |= put_text(&all->added, "a=rtcp-mux\n");
	err |= out_put(&all->added, wanted->ice.data, wanted->ice.len);
	return followed(all, edit, err);
}

static int rewrite_section(struct rewriting *all, const struct section *section,
			   const struct wanted *wanted)
{
	const char *host = wanted->port ? wanted->host : all->ours;
	int own = strcmp(host, all->ours) != 0 || (wanted->shown && !all->shown);

	if (put_media(all, section, wanted->port))
		return -1;
	if (section->first_c) {
		if (put_connection(all, section->first_c, host, wanted->shown))
			return -1;
	} else if (wanted->port && own && add_connection(all, section, host)) {
		return -1;
	}
	return put_tail(all, section, wanted);
}

/* Does the session's c= speak for m-lines that are no hold by it, and for none that is? */
static int shows_session(const struct rewriting *all)
{
	int shown = 0;
	size_t i;

	for (i = 0; i < all->sdp.sections_count; i++) {
		const struct section *section = &all->sdp.sections[i];

		if (sdp_passes(section) || section->first_c || !section->port)
			continue;
		if (!all->wanted[i].shown)
			return 0;
		shown = 1;
	}
	return shown;
}

/* Lines that go, or that another one of their kind stands for. */
static void drop_lines(struct rewriting *all)
{
	const struct section *section;
	const struct line *line;
	size_t at;

	for (at = 0; at < all->sdp.count; at++) {
		line = &all->sdp.lines[at];
		section = &all->sdp.sections[line->section];
		if (line->kind == REMOVED)
			drop(all, at);
		else if (line->kind > SESSION_C && sdp_passes(section))
			continue;
		else if (line->kind == SECTION_C || line->kind == RTCP_LINE)
			drop(all, at);
		else if (line->kind == MUX_LINE && all->wanted[line->section].port &&
			 !all->wanted[line->section].mux)
			drop(all, at);
	}
}

static int rewrite_all(struct rewriting *all)
{
	const struct description *sdp = &all->sdp;
	size_t i, passing = 0;
	struct edit *edit;
	const char *host;
	Py_ssize_t len;

	drop_lines(all);
	all->shown = shows_session(all);
	for (i = 0; i < sdp->sections_count; i++)
		passing += (size_t)sdp_passes(&sdp->sections[i]);
	for (i = 0; i < sdp->count && passing < sdp->sections_count; i++)
		if (sdp->lines[i].kind == SESSION_C && put_connection(all, i, all->ours, all->shown))
			return -1;
	if (all->whole.len) {
		edit = follow(all, sdp->sections[0].at - 1);
		if (followed(all, edit, out_put(&all->added, all->whole.data, all->whole.len)))
			return -1;
	}
	if (all->replace_origin && sdp->origin && put_origin(all))
		return -1;
	for (i = 0; i < sdp->sections_count; i++) {
		const struct section *section = &sdp->sections[i];

		if (!sdp_passes(section)) {
			if (rewrite_section(all, section, &all->wanted[i]))
				return -1;
			continue;
		}
		/* The session's c= spoke for it, and now speaks for us. */
		if (passing == sdp->sections_count || !sdp->session_c_count || section->first_c)
			continue;
		host = PyUnicode_AsUTF8AndSize(section->host, &len);
		if (!host || add_connection(all, section, host))
			return -1;
	}
	return 0;
}

/* Lines as the others end. */
static int put_lines(struct out *out, struct span lines, int cr)
{
	while (lines.len) {
		const char *end = memchr(lines.data, '\n', lines.len);
		size_t len = end ? (size_t)(end - lines.data) : lines.len;

		if (out_put(out, lines.data, len) || out_put(out, "\r\n", 2 * (size_t)(cr != 0)) ||
		    (!cr && out_put(out, "\n", 1)))
			return -1;
		lines.data += len + (end != NULL);
		lines.len -= len + (end != NULL);
	}
	return 0;
}

static int join(struct rewriting *all, struct out *out)
{
	const struct description *sdp = &all->sdp;
	int cr = sdp->lines[0].cr;
	size_t at;

	for (at = 0; at < sdp->count; at++) {
		const struct line *line = &sdp->lines[at];
		const struct edit *edit = &all->edits[at];
		struct span text = line->text;
		struct span more = {NULL, edit->more_len};
		int final = at == sdp->count - 1, ends = !final || edit->dropped || more.len;

		if (more.len)
			more.data = all->added.data + edit->more_at;
		if (edit->changed)
			text = (struct span){all->texts.data + edit->at, edit->len};
		if (!edit->dropped) {
			/* The last line had no end: what now stands there gets one. */
			int ends_so = final && ends ? cr : line->cr;

			if (out_put(out, text.data, text.len) || (ends_so && out_put(out, "\r", 1)) ||
			    (ends && out_put(out, "\n", 1)))
				return -1;
		}
		if (more.len && put_lines(out, more, cr))
			return -1;
	}
	return 0;
}

/* [(host, port, RTCP host or None, RTCP port, mux, ICE lines, shown), ...] */
static int read_wanted(struct rewriting *all, PyObject *media)
{
	size_t i, count = (size_t)PyTuple_Size(media);
	Py_ssize_t len;

	if (count != all->sdp.sections_count) {
		PyErr_SetString(PyExc_ValueError, "not as many rewrites as m-lines");
		return -1;
	}
	for (i = 0; i < count; i++) {
		struct wanted *wanted = &all->wanted[i];

		if (!PyArg_ParseTuple(PyTuple_GetItem(media, (Py_ssize_t)i), "sizipy#p", &wanted->host,
				      &wanted->port, &wanted->rtcp_host, &wanted->rtcp_port,
				      &wanted->mux, &wanted->ice.data, &len, &wanted->shown))
			return -1;
		wanted->ice.len = (size_t)len;
		if (!all->ours && wanted->port)
			all->ours = wanted->host;
	}
	if (!all->ours)
		all->ours = all->wanted[0].host;
	return 0;
}

static PyObject *py_rewrite_sdp(PyObject *self, PyObject *args)
{
	PyObject *read_host, *refuse, *media, *made = NULL;
	struct rewriting all = {0};
	struct out out = {0};
	struct span text;
	Py_ssize_t len, whole_len;

	(void)self;
	if (!PyArg_ParseTuple(args, "y#OOO!ppy#", &text.data, &len, &read_host, &refuse,
			      &PyTuple_Type, &media, &all.replace_origin, &all.rtcp_attribute,
			      &all.whole.data, &whole_len))
		return NULL;
	text.len = (size_t)len;
	all.whole.len = (size_t)whole_len;
	if (!sdp_open(&all.sdp, text, read_host, refuse) && !read_wanted(&all, media)) {
		all.edits = PyMem_Calloc(all.sdp.count, sizeof(*all.edits));
		if (!all.edits)
			PyErr_NoMemory();
		else if (!rewrite_all(&all) && !join(&all, &out))
			made = out_bytes(&out);
	}
	PyMem_Free(all.edits);
	out_free(&all.texts);
	out_free(&all.added);
	out_free(&out);
	sdp_close(&all.sdp);
	return made;
}

PyMethodDef codec_rewrite_methods[] = {
	{"rewrite_sdp", py_rewrite_sdp, METH_VARARGS,
	 "rewrite_sdp(text, read_host, refuse, media, replace_origin, rtcp_attribute, whole) -> bytes\n\n"
	 "The description with `media`, by m-line (host, port, RTCP host or None, RTCP port, rtcp-mux,\n"
	 "lines of ICE, whether ours takes the place of an unspecified host), and `whole`, lines of the\n"
	 "session, in their places. Raises ValueError when there are more or fewer m-lines."},
	{NULL, NULL, 0, NULL},
};
