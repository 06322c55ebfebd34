/* Clients of one network go to one real server, as long as it has not much more than its share.
 *
 * For services that keep something for their neighborhood, such as a cache behind a carrier's NAT
 * that spreads a client's connections over a /24. Which server is a network's own says weighted
 * rendezvous hashing: a server that leaves moves its own networks, no others. A server that has
 * more active connections than `bound` percent of its share is passed over, so that one busy
 * network cannot drown it: its next flows go to the network's second server, and so on.
 *
 * Parameters: prefix-v4 (1 to 32, default 24) and prefix-v6 (1 to 128, default 56), the bits of an
 * address that name the network; bound (101 to 1000 percent, default 150).
 */
#include "shunt.h"

#define PARAMS_CAPACITY 1024

SHUNT_VERSION("1.0.0");

static struct shunt_server servers[SHUNT_CAPACITY_MAX];
static struct shunt_flow flow;
static struct shunt_changes changes;
static char params[PARAMS_CAPACITY];

static struct shunt_table table = {
    .abi_version = SHUNT_ABI_VERSION,
    .wants = SHUNT_WANTS_LOAD,
    .capacity = SHUNT_CAPACITY_MAX,
    .servers = servers,
    .flow = &flow,
    .params = params,
    .params_capacity = PARAMS_CAPACITY,
    .changes = &changes,
};

static uint32_t prefix_v4 = 24;
static uint32_t prefix_v6 = 56;
static uint32_t bound = 150;

/* What shunt_update works out for each slot, so that shunt_schedule need not. */
static uint64_t identity[SHUNT_CAPACITY_MAX];     /* hash of the server's address */
static double inverse_weight[SHUNT_CAPACITY_MAX]; /* infinite: takes no new flows */
static double share[SHUNT_CAPACITY_MAX];          /* of all weights */

/* Active connections of the servers that take new flows, as last seen: by slot and in all. */
static uint32_t seen[SHUNT_CAPACITY_MAX];
static uint64_t active;

int32_t shunt_abi_version(void) { return SHUNT_ABI_VERSION; }

struct shunt_table *shunt_init(uint32_t worker, uint32_t workers, uint64_t seed) {
    /* All workers must choose alike, so where this one is and its seed are of no interest. */
    (void)worker, (void)workers, (void)seed;
    return &table;
}

/* The finalizer of MurmurHash3: each bit of the result depends on each bit of `x`. */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 33) * 0xff51afd7ed558ccd;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
    return x ^ x >> 33;
}

/* The same with less effort, for what is the exclusive or of two hashes: only the upper bits of the
 * result are good. */
static uint64_t mix_again(uint64_t x) {
    x *= 0xff51afd7ed558ccd;
    return (x ^ x >> 32) * 0xc4ceb9fe1a85ec53;
}

/* A hash of the first `bits` bits of an address. */
static uint64_t hash(const uint8_t address[16], uint32_t bits) {
    uint64_t halves[2] = {0, 0};
    for (uint32_t byte = 0; byte < 16; byte++) {
        uint32_t left = bits > byte * 8 ? bits - byte * 8 : 0;
        uint8_t mask = left >= 8 ? 0xff : (uint8_t)(0xff00 >> left);
        halves[byte / 8] = halves[byte / 8] << 8 | (address[byte] & mask);
    }
    return mix(mix(halves[0] + 0x9e3779b97f4a7c15) ^ halves[1]);
}

static int is_v4(const uint8_t address[16]) {
    uint32_t others = 0;
    for (int byte = 0; byte < 10; byte++)
        others |= address[byte];
    return others == 0 && address[10] == 0xff && address[11] == 0xff;
}

void shunt_update(void) {
    double weights = 0;
    for (uint32_t slot = 0; slot < table.count; slot++)
        weights += servers[slot].weight;
    for (uint32_t slot = 0; slot < table.count; slot++) {
        uint32_t weight = servers[slot].weight;
        identity[slot] = hash(servers[slot].address, 128);
        inverse_weight[slot] = weight ? 1.0 / weight : __builtin_inf();
        share[slot] = weight ? weight / weights : 0;
    }
}

static uint32_t active_in(uint32_t slot) {
    return servers[slot].weight != 0 ? servers[slot].active : 0;
}

/* Keeps `active` the sum of all, by looking only at those that have changed. */
static void follow_changes(void) {
    if (changes.count == SHUNT_CHANGES_ALL) {
        active = 0;
        for (uint32_t slot = 0; slot < table.count; slot++) {
            seen[slot] = active_in(slot);
            active += seen[slot];
        }
        return;
    }
    for (uint32_t change = 0; change < changes.count; change++) {
        uint32_t slot = changes.slots[change];
        active -= seen[slot];
        seen[slot] = active_in(slot);
        active += seen[slot];
    }
}

/* A hash as a number from 0 to 2^52, both left out. */
static double even(uint64_t hash) { return (double)(hash >> 12) + 0.5; }

/* -log2 of such a number / 2^52, within a thousandth: by a polynomial for the mantissa. */
static double surprise(double number) {
    union {
        double number;
        uint64_t bits;
    } parts = {.number = number};
    double exponent = (double)(parts.bits >> 52) - 1023;
    parts.bits = (parts.bits & 0xfffffffffffff) | 0x3ff0000000000000;
    double m = parts.number - 1;
    double log2 = m * (1.4387257 + m * (-0.6778778 + m * (0.3218538 - m * 0.0827017)));
    return 52 - exponent - log2;
}

/* The server with the least score, -log2(hash) / weight, of those that are not passed over. */
int32_t shunt_schedule(void) {
    follow_changes();
    uint64_t network = hash(flow.source, is_v4(flow.source) ? 96 + prefix_v4 : prefix_v6);
    double allowed = (double)(active + 1) * bound / 100;
    double least = __builtin_inf();
    int32_t choice = SHUNT_NO_SERVER;
    for (uint32_t slot = 0; slot < table.count; slot++) {
        double number = even(mix_again(network ^ identity[slot]));
        /* -log2 x is above 1.43 (1 - x), so that most are out of the running at once. So are those
         * of weight 0, whose inverse is infinite. */
        if ((0x1p52 - number) * (1.43 / 0x1p52) * inverse_weight[slot] >= least)
            continue;
        /* The shares add up to 1 and the bound is above it: not all servers are passed over. */
        if (servers[slot].active >= 1 + allowed * share[slot])
            continue;
        double score = surprise(number) * inverse_weight[slot];
        if (score < least) {
            least = score;
            choice = (int32_t)slot;
        }
    }
    return choice;
}

/* Writes why the parameters are refused, and answers how long that is. */
static int32_t refuse(const char *why) {
    uint32_t length = 0;
    while (why[length] != 0 && length < PARAMS_CAPACITY) {
        params[length] = why[length];
        length++;
    }
    return (int32_t)length;
}

/* Whether the `length` bytes at `text` are `word`. */
static int is(const char *text, uint32_t length, const char *word) {
    uint32_t at = 0;
    while (at < length && word[at] != 0 && text[at] == word[at])
        at++;
    return at == length && word[at] == 0;
}

/* The number that the `length` bytes at `text` write, or UINT32_MAX. */
static uint32_t number(const char *text, uint32_t length) {
    uint32_t value = 0;
    if (length == 0 || length > 6)
        return UINT32_MAX;
    for (uint32_t at = 0; at < length; at++) {
        if (text[at] < '0' || text[at] > '9')
            return UINT32_MAX;
        value = value * 10 + (uint32_t)(text[at] - '0');
    }
    return value;
}

/* Lines of `key=value\n`. A refused instance is thrown away, so it may keep half of them. */
int32_t shunt_configure(uint32_t length) {
    for (uint32_t at = 0; at < length;) {
        const char *key = params + at;
        uint32_t equals = at, end;
        while (params[equals] != '=')
            equals++;
        for (end = equals; params[end] != '\n';)
            end++;
        uint32_t value = number(params + equals + 1, end - equals - 1);
        if (is(key, equals - at, "prefix-v4")) {
            if (value < 1 || value > 32)
                return refuse("prefix-v4 must be 1 to 32, the bits of a network's address");
            prefix_v4 = value;
        } else if (is(key, equals - at, "prefix-v6")) {
            if (value < 1 || value > 128)
                return refuse("prefix-v6 must be 1 to 128, the bits of a network's address");
            prefix_v6 = value;
        } else if (is(key, equals - at, "bound")) {
            if (value < 101 || value > 1000)
                return refuse("bound must be 101 to 1000, percent of a server's share");
            bound = value;
        } else {
            return refuse("there are the parameters prefix-v4, prefix-v6 and bound, and no others");
        }
        at = end + 1;
    }
    return 0;
}
