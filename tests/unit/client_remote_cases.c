/* A client without a segment: whom it asks, what it repeats, when it is in doubt. */
#include "client_fake.h"

static const client_request read_a = {.verb = CLIENT_READ, .key = "a", .key_len = 1};
static const client_request add_a = {.verb = CLIENT_ADD, .key = "a", .key_len = 1, .delta = 3};
static uint8_t room[SEG_VALUE_BYTES_MAX];

static client_request at(client_request r, uint8_t slot)
{
    r.place = (client_place){.auth = 77, .remote_slot = slot, .remote_item = 5};
    r.out = room;
    r.cap = sizeof room;
    return r;
}

static void say_home(struct fake *f, uint32_t server, uint8_t master)
{
    struct heard *h = fake_heard(f, server, WIRE_LOOKUP);
    CHECK(h != NULL);
    fake_answer(f, h, (wire_msg){.mask = WIRE_AUTH | WIRE_HOME | WIRE_ITEM, .auth = 77, .item = 9,
                                 .home = {.master = master}});
}

static void say_value(struct fake *f, uint32_t server, const char *value)
{
    struct heard *h = fake_heard(f, server, WIRE_READ);
    CHECK(h != NULL);
    fake_answer(f, h, (wire_msg){.mask = WIRE_VALUE | WIRE_VERSION | WIRE_ITEM | WIRE_AUTH,
                                 .value = value, .value_len = strlen(value), .version = 12,
                                 .item = 8, .auth = 77});
}

static void members_then_map_then_master(void)
{
    struct fake f;
    fake_begin(&f, false);
    CHECK(client_view(f.c)->clustered && client_view(f.c)->epoch == 5);
    client_request r = read_a;
    r.out = room;
    r.cap = sizeof room;
    int op = fake_start(&f, r);
    say_home(&f, 0, 2); /* the contact's map will do */
    say_value(&f, 2, "value");
    client_result t = fake_result(&f, op);
    CHECK(t.status == DAL_OK && t.len == 5 && memcmp(room, "value", 5) == 0 && t.version == 12);
    CHECK(t.place.auth == 77 && t.place.remote_slot == 2 && t.place.remote_item == 8);
    r.place = t.place; /* from now on at once */
    r.cap = 3;
    op = fake_start(&f, r);
    CHECK(fake_heard(&f, 2, WIRE_READ)->m.item == 8);
    say_value(&f, 2, "value");
    t = fake_result(&f, op);
    CHECK(t.status == DAL_TOO_BIG && t.len == 5);
    CHECK(fake_count(&f, 0, WIRE_LOOKUP) == 1 && fake_count(&f, 1, WIRE_LOOKUP) == 0);
    fake_end(&f);
}

static void a_miss_is_confirmed_by_the_leader(void)
{
    struct fake f;
    fake_begin(&f, false);
    int op = fake_start(&f, read_a);
    fake_status(&f, fake_heard(&f, 0, WIRE_LOOKUP), SEG_NOT_FOUND);
    CHECK(fake_running(&f, op));
    fake_status(&f, fake_heard(&f, 1, WIRE_LOOKUP), SEG_NOT_FOUND);
    CHECK(fake_result(&f, op).status == DAL_NOT_FOUND);
    fake_end(&f);
}

static void a_master_that_is_none_any_more(void)
{
    struct fake f;
    fake_begin(&f, false);
    int op = fake_start(&f, at(add_a, 2));
    struct heard *first = fake_heard(&f, 2, WIRE_ADD);
    CHECK(first != NULL && first->m.item == 5 && first->m.auth == 77 && first->m.number == 3);
    uint64_t id = first->m.id;
    fake_status(&f, first, SEG_AWAY);
    say_home(&f, 1, 0);
    struct heard *h = fake_heard(&f, 0, WIRE_ADD);
    CHECK(h != NULL && h->m.id > id && (h->m.flags & WIRE_REPEAT) == 0);
    CHECK((h->m.mask & WIRE_ITEM) == 0 || h->m.item == 0); /* an item of another member is no hint */
    fake_answer(&f, h, (wire_msg){.mask = WIRE_NUMBER, .number = 42});
    client_result t = fake_result(&f, op);
    CHECK(t.status == DAL_OK && t.number == 42);
    fake_end(&f);
}

static void a_master_and_a_leader_that_disagree_are_not_flooded(void)
{
    struct fake f;
    fake_begin(&f, false);
    int op = fake_start(&f, at(read_a, 2));
    uint64_t end = f.now + 500 * MS;
    while (f.now < end) { /* both answer at once, for as long as the map takes */
        struct heard *h = fake_heard(&f, 2, WIRE_READ);
        if (h != NULL) {
            fake_status(&f, h, WIRE_MISS);
        } else if (fake_heard(&f, 1, WIRE_LOOKUP) != NULL) {
            say_home(&f, 1, 2);
        } else {
            fake_pass(&f, MS / 10);
        }
    }
    CHECK(fake_running(&f, op));
    CHECK(fake_count(&f, 2, WIRE_READ) < 60 && fake_count(&f, 1, WIRE_LOOKUP) < 60);
    while (fake_heard(&f, 2, WIRE_READ) == NULL) {
        if (fake_heard(&f, 1, WIRE_LOOKUP) != NULL) {
            say_home(&f, 1, 2);
        }
        fake_pass(&f, MS);
    }
    say_value(&f, 2, "there");
    CHECK(fake_result(&f, op).status == DAL_OK);
    fake_end(&f);
}

static void later_means_again_under_a_new_id(void)
{
    struct fake f;
    fake_begin(&f, false);
    int op = fake_start(&f, at(add_a, 2));
    uint64_t last = 0;
    for (int i = 0; i < 5; i++) {
        struct heard *h = fake_heard(&f, 2, WIRE_ADD);
        CHECK(h != NULL && h->m.id > last);
        last = h->m.id;
        fake_status(&f, h, WIRE_LATER);
        CHECK(fake_running(&f, op));
        fake_pass(&f, 15 * MS);
    }
    fake_answer(&f, fake_heard(&f, 2, WIRE_ADD), (wire_msg){.mask = WIRE_NUMBER, .number = 1});
    CHECK(fake_result(&f, op).number == 1);
    fake_end(&f);
}

static void silence_is_repeated_under_one_id_and_ends_in_doubt(void)
{
    struct fake f;
    fake_begin(&f, false);
    int op = fake_start(&f, at(add_a, 2));
    uint64_t id = fake_heard(&f, 2, WIRE_ADD)->m.id;
    fake_pass(&f, 990 * MS);
    CHECK(fake_running(&f, op));
    uint32_t repeats = 0;
    for (uint32_t i = 0; i < f.heard_count; i++) {
        if (f.heard[i].m.type == WIRE_ADD) {
            CHECK(f.heard[i].server == 2 && f.heard[i].m.id == id);
            CHECK(f.heard[i].m.seq == INCARNATION(2));
            CHECK(((f.heard[i].m.flags & WIRE_REPEAT) != 0) == (repeats > 0));
            repeats++;
        }
    }
    CHECK(repeats >= 5 && repeats < 20);
    fake_pass(&f, 20 * MS);
    client_result t = fake_result(&f, op);
    CHECK(t.status == DAL_IN_DOUBT && strstr(t.why, "n2") != NULL);
    op = fake_start(&f, at(read_a, 2)); /* a read is never in doubt */
    f.deaf[1] = true;
    fake_pass(&f, 1100 * MS);
    CHECK(fake_result(&f, op).status == DAL_UNAVAILABLE);
    fake_end(&f);
}

static void a_late_answer_is_an_answer(void)
{
    struct fake f;
    fake_begin(&f, false);
    int op = fake_start(&f, at(add_a, 2));
    struct heard *h = fake_heard(&f, 2, WIRE_ADD);
    fake_pass(&f, 500 * MS);
    fake_answer(&f, h, (wire_msg){.mask = WIRE_NUMBER, .number = 9});
    CHECK(fake_result(&f, op).number == 9);
    fake_answer(&f, h, (wire_msg){.mask = WIRE_NUMBER, .number = 8}); /* a duplicate harms nobody */
    fake_end(&f);
}

static void a_silent_member_that_leaves_the_view(void)
{
    struct fake f;
    fake_begin(&f, false);
    int writes = fake_start(&f, at(add_a, 2)), reads = fake_start(&f, at(read_a, 2));
    f.deaf[2] = true;
    f.view.present = 3;
    f.view.epoch = 6;
    fake_pass(&f, 150 * MS); /* long enough to turn to others, and to learn */
    CHECK(client_view(f.c)->epoch == 6);
    client_result t = fake_result(&f, writes);
    CHECK(t.status == DAL_IN_DOUBT && strstr(t.why, "view") != NULL);
    say_home(&f, 1, 0);
    say_value(&f, 0, "promoted");
    t = fake_result(&f, reads);
    CHECK(t.status == DAL_OK && t.len == 8);
    int op = fake_start(&f, at(add_a, 2)); /* a handle that still thinks of it */
    CHECK(fake_heard(&f, 0, WIRE_LOOKUP) != NULL || fake_heard(&f, 1, WIRE_LOOKUP) != NULL);
    say_home(&f, fake_heard(&f, 0, WIRE_LOOKUP) != NULL ? 0 : 1, 0);
    fake_answer(&f, fake_heard(&f, 0, WIRE_ADD), (wire_msg){.mask = WIRE_NUMBER, .number = 4});
    CHECK(fake_result(&f, op).number == 4);
    fake_end(&f);
}

static void another_incarnation_at_the_same_address(void)
{
    struct fake f;
    fake_begin(&f, false);
    int op = fake_start(&f, at(add_a, 2));
    fake_pass(&f, 30 * MS); /* it was repeated: the first may have been carried out */
    fake_restart(&f, 2);
    fake_pass(&f, 300 * MS); /* HELLO by suspicion */
    struct heard *h = fake_heard(&f, 2, WIRE_ADD);
    CHECK(h != NULL && (h->m.flags & WIRE_REPEAT) != 0);
    fake_answer(&f, h, (wire_msg){.status = WIRE_STALE, .mask = WIRE_SEQ, .seq = 0x9999});
    CHECK(fake_result(&f, op).status == DAL_IN_DOUBT);

    op = fake_start(&f, at(add_a, 2)); /* refused at the first sending: nothing has happened */
    h = fake_heard(&f, 2, WIRE_ADD);
    CHECK(h != NULL && (h->m.flags & WIRE_REPEAT) == 0);
    f.view.epoch = 6;
    f.view.member[2].incarnation = 0x9999;
    fake_answer(&f, h, (wire_msg){.status = WIRE_STALE, .mask = WIRE_SEQ, .seq = 0x9999});
    CHECK(fake_running(&f, op));
    fake_pass(&f, 50 * MS);
    h = fake_heard(&f, 2, WIRE_ADD);
    CHECK(h != NULL && h->m.seq == 0x9999);
    fake_answer(&f, h, (wire_msg){.mask = WIRE_NUMBER, .number = 3});
    CHECK(fake_result(&f, op).status == DAL_OK);
    fake_end(&f);
}

static void the_contact_dies(void)
{
    struct fake f;
    fake_begin(&f, false);
    f.deaf[0] = true;
    const client_request fence = {.verb = CLIENT_FENCE, .fence = "g", .fence_len = 1};
    const client_request tell = {
        .verb = CLIENT_TELL, .key = "box", .key_len = 3, .value = "m", .len = 1};
    int asks = fake_start(&f, fence), tells = fake_start(&f, tell);
    fake_pass(&f, 400 * MS);
    struct heard *h = NULL;
    for (uint32_t server = 1; h == NULL && server < SERVERS; server++) {
        h = fake_heard(&f, server, WIRE_FENCE);
    }
    CHECK(h != NULL); /* what may be done twice goes to the next */
    fake_answer(&f, h, (wire_msg){.mask = WIRE_GRANT_EPOCH, .grant_epoch = 4});
    client_result t = fake_result(&f, asks);
    CHECK(t.status == DAL_OK && t.epoch_seen == 4);
    CHECK(fake_heard(&f, 1, WIRE_TELL) == NULL && fake_heard(&f, 2, WIRE_TELL) == NULL);
    fake_pass(&f, 700 * MS);
    CHECK(fake_result(&f, tells).status == DAL_IN_DOUBT);
    int op = fake_start(&f, tell); /* new ones go there at once */
    h = fake_heard(&f, 1, WIRE_TELL) != NULL ? fake_heard(&f, 1, WIRE_TELL)
                                             : fake_heard(&f, 2, WIRE_TELL);
    fake_status(&f, h, WIRE_OK);
    CHECK(fake_result(&f, op).status == DAL_OK);
    fake_end(&f);
}

static void nobody_answers(void)
{
    struct fake f;
    fake_begin(&f, false);
    fake_end(&f);
    fake_begin(&f, false);
    client_free(f.c);
    f.deaf[0] = f.deaf[1] = f.deaf[2] = true;
    client_options o = {.contacts = 1, .contact = {f.address[0]}, .timeout_ns = 300 * MS};
    f.c = client_new(NULL, f.link, &o, f.now);
    int op = fake_start(&f, at(add_a, 2));
    fake_pass(&f, 310 * MS);
    client_result t = fake_result(&f, op);
    CHECK(t.status == DAL_UNAVAILABLE && strstr(t.why, "no server") != NULL);
    fake_end(&f);
}

static void as_many_as_there_is_room_for(void)
{
    struct fake f;
    fake_begin(&f, false);
    int op[CLIENT_IN_FLIGHT_MAX];
    uint64_t lowest = UINT64_MAX, highest = 0;
    client_request r = at(add_a, 2);
    r.timeout_ns = 60000 * MS;
    for (uint32_t i = 0; i < CLIENT_IN_FLIGHT_MAX; i++) {
        op[i] = fake_start(&f, r);
        CHECK(op[i] >= 0);
    }
    CHECK(client_start(f.c, &r, f.now) == -1);
    for (uint32_t i = 0; i < f.heard_count; i++) {
        if (f.heard[i].m.type == WIRE_ADD) {
            lowest = f.heard[i].m.id < lowest ? f.heard[i].m.id : lowest;
            highest = f.heard[i].m.id > highest ? f.heard[i].m.id : highest;
        }
    }
    CHECK(highest - lowest == CLIENT_IN_FLIGHT_MAX - 1);
    /* The oldest is not answered: nobody may be sent so far ahead that its answer is forgotten. */
    for (uint32_t n = 1; n < CLIENT_IN_FLIGHT_MAX; n++) {
        struct heard *h = fake_heard(&f, 2, WIRE_ADD);
        CHECK(h != NULL && h->m.id > lowest);
        fake_status(&f, h, WIRE_LATER);
    }
    fake_pass(&f, 15 * MS);
    for (uint32_t i = 0; i < f.heard_count; i++) {
        CHECK(f.heard[i].m.type != WIRE_ADD || f.heard[i].m.id < lowest + CLIENT_IN_FLIGHT_MAX);
    }
    for (int round = 0; round < 10; round++) {
        for (struct heard *h; (h = fake_heard(&f, 2, WIRE_ADD)) != NULL;) {
            fake_answer(&f, h, (wire_msg){.mask = WIRE_NUMBER});
        }
        fake_pass(&f, 25 * MS);
    }
    for (uint32_t i = 0; i < CLIENT_IN_FLIGHT_MAX; i++) {
        CHECK(fake_result(&f, op[i]).status == DAL_OK);
    }
    fake_end(&f);
}

static void a_cursor_belongs_to_the_member_that_gave_it(void)
{
    struct fake f;
    fake_begin(&f, false);
    client_request poll = {.verb = CLIENT_POLL, .key = "", .out = room, .cap = sizeof room};
    int op = fake_start(&f, poll);
    struct heard *h = fake_heard(&f, 0, WIRE_POLL);
    CHECK(h != NULL && h->m.number == 0);
    fake_answer(&f, h, (wire_msg){.mask = WIRE_NUMBER, .number = 1000, .status = SEG_NOT_FOUND});
    client_result t = fake_result(&f, op);
    CHECK(t.status == DAL_NOT_FOUND && t.cursor != 0);
    poll.cursor = t.cursor;
    op = fake_start(&f, poll);
    h = fake_heard(&f, 0, WIRE_POLL);
    CHECK(h->m.number == 1000);
    f.deaf[0] = true; /* its feed is gone with it: the next one's begins somewhere */
    fake_pass(&f, 400 * MS);
    h = fake_heard(&f, 1, WIRE_POLL) != NULL ? fake_heard(&f, 1, WIRE_POLL)
                                             : fake_heard(&f, 2, WIRE_POLL);
    CHECK(h != NULL && h->m.number == 0);
    fake_answer(&f, h, (wire_msg){.mask = WIRE_NUMBER, .number = 7, .status = SEG_NOT_FOUND});
    t = fake_result(&f, op);
    CHECK(t.status == DAL_OVERRUN && t.cursor != 0 && t.cursor != poll.cursor);
    fake_end(&f);
}

static void nonsense_is_dropped(void)
{
    struct fake f;
    fake_begin(&f, false);
    int op = fake_start(&f, at(read_a, 2));
    struct heard *h = fake_heard(&f, 2, WIRE_READ);
    uint8_t noise[200];
    for (int seed = 0; seed < 500; seed++) {
        for (size_t i = 0; i < sizeof noise; i++) {
            noise[i] = (uint8_t)(seed * 131 + (int)i * 7 + (int)(i * i));
        }
        link_send(f.server[2], &f.client_address, noise, 1 + (size_t)seed % sizeof noise, 0, f.now);
    }
    struct heard other = *h;
    other.m.id += 1000;
    fake_answer(&f, &other, (wire_msg){.status = WIRE_OK}); /* an id that nobody has given */
    other = *h;
    other.server = 1;
    fake_answer(&f, &other, (wire_msg){.status = SEG_NOT_FOUND}); /* not whom we asked */
    CHECK(fake_running(&f, op));
    fake_status(&f, h, 250); /* a status that nobody knows */
    CHECK(fake_result(&f, op).status == DAL_INVALID);
    client_request strange = {.verb = CLIENT_VERBS};
    CHECK(fake_result(&f, fake_start(&f, strange)).status == DAL_INVALID);
    client_request big = {.verb = CLIENT_CREATE, .key = "a", .key_len = SEG_KEY_BYTES_MAX + 1};
    CHECK(fake_result(&f, fake_start(&f, big)).status == DAL_TOO_BIG);
    fake_end(&f);
}

void test_remote(void)
{
    members_then_map_then_master();
    a_miss_is_confirmed_by_the_leader();
    a_master_that_is_none_any_more();
    a_master_and_a_leader_that_disagree_are_not_flooded();
    later_means_again_under_a_new_id();
    silence_is_repeated_under_one_id_and_ends_in_doubt();
    a_late_answer_is_an_answer();
    a_silent_member_that_leaves_the_view();
    another_incarnation_at_the_same_address();
    the_contact_dies();
    nobody_answers();
    as_many_as_there_is_room_for();
    a_cursor_belongs_to_the_member_that_gave_it();
    nonsense_is_dropped();
}
