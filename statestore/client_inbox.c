/* Messages for this process: inboxes, what was pushed into them, interest in changes.
 *
 * Knows: at most once, in order, by the pusher's ids. Must not know: how a message finds its server.
 *
 * A message is acknowledged once it is held here for the process; there is room for
 * DAL_INBOX_MESSAGES_MAX of them. Registrations are told again and again: a server that has started
 * anew does not know them.
 */
#include "client_internal.h"

static struct inbox *inbox_named(client *c, const void *name, size_t len)
{
    for (uint32_t i = 0; i < c->inboxes; i++) {
        if (c->inbox[i].len == len && memcmp(c->inbox[i].name, name, len) == 0) {
            return &c->inbox[i];
        }
    }
    return NULL;
}

void client_inbox_add(client *c, const void *name, size_t len)
{
    if (len > CLIENT_INBOX_NAME_BYTES_MAX || c->inboxes == CLIENT_INBOXES_MAX ||
        inbox_named(c, name, len) != NULL) {
        return;
    }
    if (c->inboxes == 0) {
        c->renew_at_ns = c->now_ns + CLIENT_RENEW_NS;
    }
    struct inbox *box = &c->inbox[c->inboxes++];
    memset(box, 0, sizeof *box);
    memcpy(box->name, name, len);
    box->len = len;
}

static void tell_inboxes(client *c, uint64_t close)
{
    for (uint32_t i = 0; i < c->inboxes; i++) {
        wire_msg m = {.type = WIRE_INBOX,
                      .mask = WIRE_KEY | WIRE_NUMBER,
                      .key = c->inbox[i].name,
                      .key_len = c->inbox[i].len,
                      .number = close};
        client_tell_server(c, &m);
    }
}

void client_renew(client *c)
{
    if (c->inboxes > 0 && c->now_ns >= c->renew_at_ns) {
        c->renew_at_ns = c->now_ns + CLIENT_RENEW_NS;
        tell_inboxes(c, 0);
    }
}

void client_goodbye(client *c, uint64_t now_ns)
{
    c->now_ns = now_ns;
    tell_inboxes(c, 1);
    c->inboxes = 0;
}

void client_watching(client *c, uint64_t now_ns)
{
    c->now_ns = now_ns;
    if (c->local == NULL || c->link == NULL || now_ns < c->watching_at_ns) {
        return; /* a poll over the network says so by itself */
    }
    c->watching_at_ns = now_ns + CLIENT_RENEW_NS;
    wire_msg m = {.type = WIRE_POLL, .mask = WIRE_KEY | WIRE_NUMBER, .key = ""};
    client_tell_server(c, &m);
}

/* True: not seen yet. By the id, which grows with every message as long as its server lives; the
 * number begins anew when the server makes the inbox anew. */
static bool fresh(struct inbox *box, uint64_t session, uint64_t id)
{
    for (uint32_t i = 0; i < box->pushers; i++) {
        if (box->pusher[i].session == session) {
            if (id <= box->pusher[i].last) {
                return false;
            }
            box->pusher[i].last = id;
            return true;
        }
    }
    if (box->pushers == PUSHERS_MAX) { /* the oldest is surely gone */
        memmove(&box->pusher[0], &box->pusher[1], sizeof box->pusher[0] * (PUSHERS_MAX - 1));
        box->pushers--;
    }
    box->pusher[box->pushers].session = session;
    box->pusher[box->pushers++].last = id;
    return true;
}

static uint8_t accept(client *c, uint64_t session, const wire_msg *m)
{
    struct inbox *box = inbox_named(c, m->key, m->key_len);
    if (box == NULL) {
        return SEG_NOT_FOUND;
    }
    if (c->held >= DAL_INBOX_MESSAGES_MAX || c->held_bytes + m->value_len > CLIENT_HELD_BYTES_MAX) {
        return SEG_FULL;
    }
    struct message *message = malloc(sizeof *message + m->value_len);
    if (message == NULL) {
        return SEG_FULL;
    }
    if (!fresh(box, session, m->id)) {
        free(message);
        return WIRE_OK;
    }
    message->next = NULL;
    message->len = m->value_len;
    memcpy(message->inbox, box->name, sizeof message->inbox);
    if (m->value_len > 0) {
        memcpy(message->bytes, m->value, m->value_len);
    }
    *c->newest = message;
    c->newest = &message->next;
    c->held++;
    c->held_bytes += m->value_len;
    c->stats.pushes++;
    return WIRE_OK;
}

void client_pushed(client *c, const link_addr *from, uint64_t session, const wire_msg *m)
{
    uint8_t status = (m->mask & WIRE_KEY) == 0 ? WIRE_BAD : accept(c, session, m);
    c->stats.pushes_refused += status != WIRE_OK;
    wire_msg reply = {.type = WIRE_REPLY,
                      .status = status,
                      .slot = CLIENT_NO_SLOT,
                      .mask = WIRE_EPOCH | WIRE_ID,
                      .epoch = m->epoch,
                      .id = m->id};
    client_send(c, from, &reply);
}

dal_status client_take(client *c, void *buf, size_t cap, size_t *len, char *inbox)
{
    struct message *m = c->oldest;
    if (m == NULL) {
        return DAL_NOT_FOUND;
    }
    *len = m->len;
    memcpy(inbox, m->inbox, sizeof m->inbox);
    if (m->len > cap) {
        return DAL_TOO_BIG;
    }
    memcpy(buf, m->bytes, m->len);
    c->oldest = m->next;
    if (c->oldest == NULL) {
        c->newest = &c->oldest;
    }
    c->held--;
    c->held_bytes -= m->len;
    free(m);
    return DAL_OK;
}
