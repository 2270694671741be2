/* A client beside its server: what is done in memory, and the copies of synchronous operations. */
#include "client_fake.h"

static char room[256];

/* An item in our segment. */
static seg_handle plant(struct fake *f, const char *key, const char *value, seg_home home, bool away,
                        bool stub)
{
    seg_handle h;
    const seg_copy c = {.auth = 77, .version = 3, .home = home, .value = value,
                        .len = strlen(value), .stub = stub, .away = away || stub};
    CHECK(seg_plant(f->local, key, strlen(key), &c, &h) == SEG_OK);
    return h;
}

static client_request of(client_verb verb, const char *key, bool sync)
{
    return (client_request){.verb = verb, .key = key, .key_len = strlen(key), .sync = sync,
                            .value = "new", .len = verb == CLIENT_WRITE ? 3 : 0, .out = room,
                            .cap = sizeof room};
}

static void in_memory_alone(void)
{
    struct fake f;
    fake_begin(&f, true);
    plant(&f, "a", "value", (seg_home){.master = 0, .replicas = 2}, false, false);
    uint32_t before = f.heard_count;
    client_result t = fake_result(&f, fake_start(&f, of(CLIENT_READ, "a", false)));
    CHECK(t.status == DAL_OK && t.local && t.len == 5 && memcmp(room, "value", 5) == 0);
    CHECK(t.place.auth == 77 && t.place.item != 0);
    t = fake_result(&f, fake_start(&f, of(CLIENT_WRITE, "a", false)));
    CHECK(t.status == DAL_OK && t.local);
    CHECK(f.heard_count == before);
    fake_end(&f);
}

static void a_sync_write_waits_for_every_copy(void)
{
    struct fake f;
    fake_begin(&f, true);
    seg_handle h = plant(&f, "a", "value", (seg_home){.master = 0, .replicas = 2, .learners = 4},
                         false, false);
    seg_facts facts;
    int op = fake_start(&f, of(CLIENT_WRITE, "a", true));
    struct heard *one = fake_heard(&f, 1, WIRE_COPY), *two = fake_heard(&f, 2, WIRE_COPY);
    CHECK(one != NULL && two != NULL);
    CHECK(seg_facts_read(f.local, &h, &facts) == SEG_OK && facts.acked < facts.control);
    CHECK(one->m.auth == 77 && one->m.slot == 0 && one->m.epoch == 5 &&
          one->m.version == facts.version && one->m.value_len == 3 &&
          memcmp(one->m.value, "new", 3) == 0 && one->m.home.replicas == 2 &&
          one->m.home.learners == 4);
    fake_status(&f, one, WIRE_OK);
    CHECK(fake_running(&f, op));
    fake_pass(&f, 25 * MS); /* the other is repeated, the one that has it is not */
    CHECK(fake_count(&f, 2, WIRE_COPY) == 2 && fake_count(&f, 1, WIRE_COPY) == 1);
    fake_status(&f, two, WIRE_OK);
    client_result t = fake_result(&f, op);
    CHECK(t.status == DAL_OK && !t.local);
    CHECK(seg_facts_read(f.local, &h, &facts) == SEG_OK && facts.acked == facts.control);
    /* It is known now: a synchronous read asks nobody. */
    uint32_t before = f.heard_count;
    t = fake_result(&f, fake_start(&f, of(CLIENT_READ, "a", true)));
    CHECK(t.status == DAL_OK && t.len == 3 && f.heard_count == before);
    t = fake_result(&f, fake_start(&f, of(CLIENT_ENSURE, "a", false)));
    CHECK(t.status == DAL_OK && f.heard_count == before);
    fake_end(&f);
}

static void a_sync_read_brings_the_version_to_all_first(void)
{
    struct fake f;
    fake_begin(&f, true);
    plant(&f, "a", "value", (seg_home){.master = 0, .replicas = 2}, false, false);
    CHECK(fake_result(&f, fake_start(&f, of(CLIENT_WRITE, "a", false))).status == DAL_OK);
    int op = fake_start(&f, of(CLIENT_READ, "a", true));
    CHECK(fake_running(&f, op));
    fake_status(&f, fake_heard(&f, 1, WIRE_COPY), WIRE_OK);
    client_result t = fake_result(&f, op);
    CHECK(t.status == DAL_OK && t.len == 3 && memcmp(room, "new", 3) == 0);
    fake_end(&f);
}

static void who_became_a_replica_meanwhile_gets_it_too(void)
{
    struct fake f;
    fake_begin(&f, true);
    seg_handle h = plant(&f, "a", "value", (seg_home){.master = 0, .replicas = 2}, false, false);
    int op = fake_start(&f, of(CLIENT_WRITE, "a", true));
    const seg_home more = {.master = 0, .replicas = 2, .learners = 4};
    CHECK(seg_home_write(f.local, &h, &more) == SEG_OK);
    fake_status(&f, fake_heard(&f, 1, WIRE_COPY), WIRE_OK);
    CHECK(fake_running(&f, op));
    fake_pass(&f, 5 * MS);
    CHECK(fake_heard(&f, 2, WIRE_COPY) != NULL);
    fake_status(&f, fake_heard(&f, 1, WIRE_COPY), WIRE_OK);
    fake_status(&f, fake_heard(&f, 2, WIRE_COPY), WIRE_OK);
    CHECK(fake_result(&f, op).status == DAL_OK);
    fake_end(&f);
}

static void a_replica_whose_map_lags_is_asked_again(void)
{
    static const uint8_t refusals[] = {WIRE_LATER, WIRE_STALE, SEG_NOT_FOUND, SEG_AWAY};
    for (size_t i = 0; i < sizeof refusals; i++) {
        struct fake f;
        fake_begin(&f, true);
        plant(&f, "a", "value", (seg_home){.master = 0, .replicas = 2}, false, false);
        int op = fake_start(&f, of(CLIENT_WRITE, "a", true));
        fake_status(&f, fake_heard(&f, 1, WIRE_COPY), refusals[i]);
        CHECK(fake_running(&f, op));
        fake_pass(&f, 5 * MS);
        fake_status(&f, fake_heard(&f, 1, WIRE_COPY), WIRE_OK);
        CHECK(fake_result(&f, op).status == DAL_OK);
        fake_end(&f);
    }
}

static void copies_that_nobody_acknowledges_are_doubt(void)
{
    struct fake f;
    fake_begin(&f, true);
    plant(&f, "a", "value", (seg_home){.master = 0, .replicas = 2}, false, false);
    int writes = fake_start(&f, of(CLIENT_WRITE, "a", true));
    int reads = fake_start(&f, of(CLIENT_READ, "a", true));
    fake_pass(&f, 1010 * MS);
    client_result t = fake_result(&f, writes);
    CHECK(t.status == DAL_IN_DOUBT && t.why[0] != '\0');
    CHECK(fake_result(&f, reads).status == DAL_UNAVAILABLE);
    fake_end(&f);
}

static void a_lease_that_ended_under_a_sync_write(void)
{
    struct fake f;
    fake_begin(&f, true);
    plant(&f, "a", "value", (seg_home){.master = 0, .replicas = 2}, false, false);
    seg_lease(f.local, f.now + 10 * MS);
    int writes = fake_start(&f, of(CLIENT_WRITE, "a", true));
    int reads = fake_start(&f, of(CLIENT_READ, "a", true));
    fake_pass(&f, 15 * MS);
    struct heard *first = fake_heard(&f, 1, WIRE_COPY);
    fake_status(&f, first, WIRE_OK);
    fake_status(&f, fake_heard(&f, 1, WIRE_COPY), WIRE_OK);
    CHECK(fake_result(&f, writes).status == DAL_IN_DOUBT);
    client_result t = fake_result(&f, reads);
    CHECK(t.status == DAL_NOT_SERVING && strstr(t.why, "lease ended") != NULL);
    fake_end(&f);
}

static void a_write_that_another_master_may_not_know(void)
{
    for (int promoted = 0; promoted < 2; promoted++) {
        struct fake f;
        fake_begin(&f, true);
        seg_handle h = plant(&f, "a", "value", (seg_home){.master = 0, .replicas = 2}, false, false);
        int op = fake_start(&f, of(CLIENT_WRITE, "a", true));
        const seg_home there = {.master = 1};
        CHECK(seg_freeze(f.local, &h) == SEG_OK && seg_home_write(f.local, &h, &there) == SEG_OK);
        if (promoted != 0) { /* a view without us in between: what it had is what counts */
            f.view.epoch = 6;
            fake_set_view(&f);
            fake_pass(&f, 25 * MS);
            CHECK(fake_result(&f, op).status == DAL_IN_DOUBT);
        } else { /* moved by us, with this write: the new master brings it to all */
            fake_pass(&f, 25 * MS);
            struct heard *ensure = fake_heard(&f, 1, WIRE_ENSURE);
            CHECK(ensure != NULL && ensure->m.auth == 77 && ensure->m.version == 0);
            fake_status(&f, ensure, WIRE_OK);
            CHECK(fake_result(&f, op).status == DAL_OK);
        }
        fake_end(&f);
    }
}

static void a_frozen_item_is_read_and_not_written(void)
{
    struct fake f;
    fake_begin(&f, true);
    seg_handle h = plant(&f, "a", "value", (seg_home){.master = 0}, false, false);
    CHECK(seg_freeze(f.local, &h) == SEG_OK);
    CHECK(fake_result(&f, fake_start(&f, of(CLIENT_READ, "a", false))).status == DAL_OK);
    int op = fake_start(&f, of(CLIENT_WRITE, "a", false));
    fake_pass(&f, 100 * MS);
    CHECK(fake_running(&f, op));
    CHECK(seg_thaw(f.local, &h, 0) == SEG_OK);
    fake_pass(&f, 25 * MS);
    CHECK(fake_result(&f, op).status == DAL_OK);
    CHECK(seg_freeze(f.local, &h) == SEG_OK);
    op = fake_start(&f, of(CLIENT_WRITE, "a", false));
    const seg_home there = {.master = 2}; /* and gone */
    CHECK(seg_home_write(f.local, &h, &there) == SEG_OK);
    fake_pass(&f, 25 * MS);
    fake_status(&f, fake_heard(&f, 2, WIRE_WRITE), WIRE_OK);
    CHECK(fake_result(&f, op).status == DAL_OK);
    fake_end(&f);
}

static void an_item_elsewhere_is_asked_of_its_master(void)
{
    struct fake f;
    fake_begin(&f, true);
    plant(&f, "stub", "", (seg_home){.master = 2}, true, true);
    plant(&f, "copy", "old", (seg_home){.master = 2, .replicas = 1}, true, false);
    for (int i = 0; i < 2; i++) {
        int op = fake_start(&f, of(CLIENT_READ, i == 0 ? "stub" : "copy", false));
        struct heard *h = fake_heard(&f, 2, WIRE_READ);
        CHECK(h != NULL && h->m.auth == 77 && h->m.slot == 0);
        fake_answer(&f, h, (wire_msg){.mask = WIRE_VALUE, .value = "fresh", .value_len = 5});
        client_result t = fake_result(&f, op);
        CHECK(t.status == DAL_OK && t.len == 5 && !t.local);
    }
    fake_end(&f);
}

static void a_miss_in_our_map_is_confirmed(void)
{
    struct fake f;
    fake_begin(&f, true);
    int op = fake_start(&f, of(CLIENT_READ, "a", false));
    fake_status(&f, fake_heard(&f, 1, WIRE_LOOKUP), SEG_NOT_FOUND);
    CHECK(fake_result(&f, op).status == DAL_NOT_FOUND);
    op = fake_start(&f, of(CLIENT_READ, "a", false)); /* our map lags */
    fake_answer(&f, fake_heard(&f, 1, WIRE_LOOKUP),
                (wire_msg){.mask = WIRE_AUTH | WIRE_HOME, .auth = 99, .home = {.master = 2}});
    struct heard *h = fake_heard(&f, 2, WIRE_READ);
    CHECK(h != NULL && h->m.auth == 99);
    fake_answer(&f, h, (wire_msg){.mask = WIRE_VALUE, .value = "x", .value_len = 1});
    CHECK(fake_result(&f, op).status == DAL_OK);
    fake_end(&f);
    fake_begin(&f, true); /* our own server is the leader: it knows whether a deletion is settled */
    f.view.leader = 0;
    f.view.epoch = 6;
    fake_set_view(&f);
    op = fake_start(&f, of(CLIENT_READ, "a", false));
    fake_status(&f, fake_heard(&f, 0, WIRE_LOOKUP), WIRE_LATER);
    CHECK(fake_running(&f, op));
    fake_pass(&f, 5 * MS);
    fake_status(&f, fake_heard(&f, 0, WIRE_LOOKUP), SEG_NOT_FOUND);
    CHECK(fake_result(&f, op).status == DAL_NOT_FOUND);
    fake_end(&f);
}

static void a_member_that_does_not_serve(void)
{
    struct fake f;
    fake_begin(&f, true);
    plant(&f, "a", "value", (seg_home){.master = 0}, false, false);
    seg_serve(f.local, false); /* a view is changing: it takes a moment */
    int op = fake_start(&f, of(CLIENT_READ, "a", false));
    fake_pass(&f, 50 * MS);
    CHECK(fake_running(&f, op));
    seg_serve(f.local, true);
    fake_pass(&f, 25 * MS);
    CHECK(fake_result(&f, op).status == DAL_OK);
    seg_serve(f.local, false);
    seg_lease(f.local, f.now - 40 * MS);
    client_result t = fake_result(&f, fake_start(&f, of(CLIENT_WRITE, "a", false)));
    CHECK(t.status == DAL_NOT_SERVING && strstr(t.why, "40 ms ago") != NULL);
    f.view.present = 6;
    f.view.epoch = 6;
    f.view.serving = false;
    fake_set_view(&f);
    t = fake_result(&f, fake_start(&f, of(CLIENT_READ, "a", false)));
    CHECK(t.status == DAL_NOT_SERVING && strstr(t.why, "outside the view") != NULL);
    fake_end(&f);
}

static void what_the_server_makes(void)
{
    struct fake f;
    fake_begin(&f, true);
    client_request r = of(CLIENT_CREATE, "a", false);
    r.len = 3;
    r.want = 2;
    r.hint = SEG_HINT_PIN;
    r.capacity = 64;
    r.ttl_ns = 5 * MS;
    int op = fake_start(&f, r);
    struct heard *h = fake_heard(&f, 0, WIRE_CREATE);
    CHECK(h != NULL && h->m.home.want == 2 && h->m.home.hint == SEG_HINT_PIN &&
          h->m.number == 64 && h->m.ttl_ns == 5 * MS && h->m.value_len == 3);
    fake_answer(&f, h, (wire_msg){.mask = WIRE_AUTH | WIRE_HOME, .auth = 88,
                                  .home = {.master = 0, .want = 2}});
    client_result t = fake_result(&f, op);
    CHECK(t.status == DAL_OK && t.place.auth == 88 && t.home.want == 2);
    op = fake_start(&f, r);
    fake_status(&f, fake_heard(&f, 0, WIRE_CREATE), SEG_EXISTS);
    CHECK(fake_result(&f, op).status == DAL_EXISTS);
    plant(&f, "b", "value", (seg_home){.master = 0}, false, false);
    op = fake_start(&f, of(CLIENT_DELETE, "b", false));
    h = fake_heard(&f, 0, WIRE_DELETE); /* by its incarnation: a repetition harms no other */
    CHECK(h != NULL && h->m.auth == 77);
    fake_status(&f, h, WIRE_OK);
    CHECK(fake_result(&f, op).status == DAL_OK);
    fake_end(&f);
}

void test_local(void)
{
    in_memory_alone();
    a_sync_write_waits_for_every_copy();
    a_sync_read_brings_the_version_to_all_first();
    who_became_a_replica_meanwhile_gets_it_too();
    a_replica_whose_map_lags_is_asked_again();
    copies_that_nobody_acknowledges_are_doubt();
    a_lease_that_ended_under_a_sync_write();
    a_write_that_another_master_may_not_know();
    a_frozen_item_is_read_and_not_written();
    an_item_elsewhere_is_asked_of_its_master();
    a_miss_in_our_map_is_confirmed();
    a_member_that_does_not_serve();
    what_the_server_makes();
}
