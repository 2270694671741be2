/* A network function in ten lines of C: counts packets (here: lines), in state that outlives it.
 *
 *   gcc nf.c $(python -m statestore --cflags --libs) -o nf && ./nf dal:///run/bgf/state
 */
#include <dal.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    char why[256] = "usage: nf dal:///DIRECTORY", packet[2048];
    dal_options o = DAL_DEFAULTS;
    dal *d;
    dal_handle packets;
    int64_t n = 0;
    if (argc < 2 || dal_open(argv[1], &o, &d, why, sizeof why) != DAL_OK) {
        return fprintf(stderr, "%s\n", why), 1;
    }
    dal_create(d, "nf/packets", 10, "\0\0\0\0\0\0\0\0", 8, &o.write, &packets); /* or it exists */
    while (fgets(packet, sizeof packet, stdin) != NULL) {
        if (dal_add(d, &packets, 1, &n, &o.write) != DAL_OK) {
            return fprintf(stderr, "%s\n", dal_why(d)), 1;
        }
    }
    printf("%lld packets\n", (long long)n);
    dal_close(d);
    return 0;
}
