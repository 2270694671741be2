/* Messages to a client's inboxes: once, in order, bounded; and told again where they go. */
#include "client_fake.h"

static void push_id(struct fake *f, uint32_t server, const char *inbox, uint64_t id, uint64_t number,
                    const char *text)
{
    uint8_t bytes[1024];
    wire_msg m = {.type = WIRE_PUSH,
                  .slot = (uint8_t)server,
                  .mask = WIRE_EPOCH | WIRE_ID | WIRE_NUMBER | WIRE_KEY | WIRE_VALUE,
                  .epoch = 5,
                  .id = id,
                  .number = number,
                  .key = inbox,
                  .key_len = strlen(inbox),
                  .value = text,
                  .value_len = strlen(text)};
    size_t len = wire_encode(&m, bytes, sizeof bytes);
    CHECK(len > 0 && link_send(f->server[server], &f->client_address, bytes, len, 0, f->now));
    fake_pump(f);
}

static void push(struct fake *f, uint32_t server, const char *inbox, uint64_t number,
                 const char *text)
{
    push_id(f, server, inbox, 5000 + number, number, text);
}

/* What the client answered last. */
static int answered(struct fake *f, uint32_t server)
{
    struct heard *h = fake_heard(f, server, WIRE_REPLY);
    if (h == NULL) {
        return -1;
    }
    h->answered = true;
    return h->m.status;
}

static bool took(struct fake *f, const char *inbox, const char *text)
{
    char buf[64], name[CLIENT_INBOX_NAME_BYTES_MAX + 1];
    size_t len;
    return client_take(f->c, buf, sizeof buf, &len, name) == DAL_OK && len == strlen(text) &&
           memcmp(buf, text, len) == 0 && strcmp(name, inbox) == 0;
}

static void open_inbox(struct fake *f, const char *name)
{
    const client_request r = {.verb = CLIENT_INBOX, .key = name, .key_len = strlen(name)};
    int op = fake_start(f, r);
    fake_status(f, fake_heard(f, 0, WIRE_INBOX), WIRE_OK);
    CHECK(fake_result(f, op).status == DAL_OK);
}

static void once_and_in_order(void)
{
    struct fake f;
    char name[CLIENT_INBOX_NAME_BYTES_MAX + 1], buf[2];
    size_t len;
    fake_begin(&f, false);
    open_inbox(&f, "box");
    push(&f, 0, "box", 1, "one");
    CHECK(answered(&f, 0) == WIRE_OK);
    push(&f, 0, "box", 1, "one"); /* its answer was lost: acknowledged, not delivered again */
    CHECK(answered(&f, 0) == WIRE_OK);
    push(&f, 0, "box", 2, "two");
    push(&f, 0, "other", 3, "?");
    CHECK(answered(&f, 0) == SEG_NOT_FOUND);
    CHECK(client_take(f.c, buf, sizeof buf, &len, name) == DAL_TOO_BIG && len == 3);
    CHECK(took(&f, "box", "one") && took(&f, "box", "two"));
    CHECK(client_take(f.c, buf, sizeof buf, &len, name) == DAL_NOT_FOUND);
    push_id(&f, 0, "box", 9000, 1, "late"); /* made anew by the same server: its numbers begin anew */
    CHECK(answered(&f, 0) == WIRE_OK && took(&f, "box", "late"));
    fake_restart(&f, 0); /* begins to number anew */
    push(&f, 0, "box", 1, "anew");
    fake_pass(&f, 600 * MS);
    push(&f, 0, "box", 2, "anew");
    CHECK(took(&f, "box", "anew"));
    fake_end(&f);
}

static void bounded(void)
{
    struct fake f;
    fake_begin(&f, false);
    open_inbox(&f, "box");
    for (uint64_t n = 1; n <= DAL_INBOX_MESSAGES_MAX; n++) {
        push(&f, 0, "box", n, "x");
        CHECK(answered(&f, 0) == WIRE_OK);
    }
    push(&f, 0, "box", DAL_INBOX_MESSAGES_MAX + 1, "late");
    CHECK(answered(&f, 0) == SEG_FULL);
    CHECK(took(&f, "box", "x"));
    push(&f, 0, "box", DAL_INBOX_MESSAGES_MAX + 1, "late"); /* refused is not seen */
    CHECK(answered(&f, 0) == WIRE_OK);
    fake_end(&f);
}

static void told_again_and_closed(void)
{
    struct fake f;
    fake_begin(&f, false);
    open_inbox(&f, "box");
    uint32_t before = fake_count(&f, 0, WIRE_INBOX);
    fake_pass(&f, 1600 * MS);
    CHECK(fake_count(&f, 0, WIRE_INBOX) >= before + 3);
    client_goodbye(f.c, f.now);
    fake_pump(&f);
    CHECK(fake_heard(&f, 0, WIRE_INBOX)->m.number == 1);
    fake_end(&f);
}

void test_messages(void)
{
    once_and_in_order();
    bounded();
    told_again_and_closed();
}
