/* ABI version 1 of shunt's scheduler plugins, for C11 without a standard library.
 *
 * plugins/ABI.md says what all of this means. Copy this file beside your own: it needs nothing but
 * the compiler's own stdint.h and stddef.h.
 *
 * The records below are the host's to write. Define them as ordinary variables (neither const nor
 * on the stack), name them in the table, and answer the table's address in shunt_init.
 */
#ifndef SHUNT_H
#define SHUNT_H

#include <stddef.h>
#include <stdint.h>

/* The version of the contract. */
#define SHUNT_ABI_VERSION 1u

/* The most slots that a table may have. */
#define SHUNT_CAPACITY_MAX 1024

/* Bit of shunt_table.wants: the connections of the servers are kept current. */
#define SHUNT_WANTS_LOAD 1u

/* What shunt_schedule answers to decline: the flow gets the native fallback. */
#define SHUNT_NO_SERVER (-1)

/* shunt_changes.count when the connections of any server may have changed. */
#define SHUNT_CHANGES_ALL UINT32_MAX

/* shunt_flow.protocol */
#define SHUNT_TCP 6u
#define SHUNT_UDP 17u

/* A real server. Its place in the array is its slot, which it keeps for as long as it exists. */
struct shunt_server {
    uint32_t weight;     /* 0: takes no new flows (drained, removed, no neighbor, empty slot) */
    uint32_t active;     /* established TCP flows and living UDP flows, if wanted */
    uint32_t inactive;   /* all other flows, if wanted */
    uint32_t reserved;
    uint8_t address[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
};

/* The flow that shunt_schedule is asked about. */
struct shunt_flow {
    uint8_t source[16];      /* the client, written as a server's address is */
    uint8_t destination[16]; /* the VIP, written likewise */
    uint16_t source_port;
    uint16_t destination_port;
    uint32_t protocol; /* SHUNT_TCP or SHUNT_UDP */
};

/* The slots whose connections differ from what the last shunt_schedule was shown. */
struct shunt_changes {
    uint32_t count; /* or SHUNT_CHANGES_ALL */
    uint16_t slots[SHUNT_CAPACITY_MAX];
};

/* What plugin and host tell each other. The fields up to count, and those from params on, are
 * read once, when shunt_init returns; leave out what you do not want. */
struct shunt_table {
    uint32_t abi_version;         /* SHUNT_ABI_VERSION */
    uint32_t wants;               /* SHUNT_WANTS_LOAD or 0 */
    uint32_t capacity;            /* slots that the arrays below have, 1 to SHUNT_CAPACITY_MAX */
    struct shunt_server *servers; /* capacity of them */
    double *keys;                 /* capacity load keys, or NULL */
    struct shunt_flow *flow;      /* or NULL */
    uint32_t count;               /* host: slots in use */
    uint32_t generation;          /* host: grows by one with each change of the servers */
    uint32_t worker;              /* host: number of the worker, from 0 */
    uint32_t workers;             /* host: workers that serve the virtual service */
    char *params;                 /* params_capacity bytes, or NULL */
    uint32_t params_capacity;     /* at most 4096 */
    void *state;                  /* state_capacity bytes, or NULL */
    uint32_t state_capacity;      /* at most 4096, unless the director allows more */
    struct shunt_changes *changes; /* or NULL */
    uint32_t reserved;
};

#define SHUNT_AT(record, field, offset) \
    _Static_assert(offsetof(struct record, field) == (offset), #record "." #field)
#define SHUNT_SIZE(record, size, alignment)                          \
    _Static_assert(sizeof(struct record) == (size), #record);        \
    _Static_assert(_Alignof(struct record) == (alignment), #record)

_Static_assert(sizeof(void *) == 4, "build with clang --target=wasm32");
SHUNT_SIZE(shunt_table, 64, 4);
SHUNT_AT(shunt_table, abi_version, 0);
SHUNT_AT(shunt_table, wants, 4);
SHUNT_AT(shunt_table, capacity, 8);
SHUNT_AT(shunt_table, servers, 12);
SHUNT_AT(shunt_table, keys, 16);
SHUNT_AT(shunt_table, flow, 20);
SHUNT_AT(shunt_table, count, 24);
SHUNT_AT(shunt_table, generation, 28);
SHUNT_AT(shunt_table, worker, 32);
SHUNT_AT(shunt_table, workers, 36);
SHUNT_AT(shunt_table, params, 40);
SHUNT_AT(shunt_table, params_capacity, 44);
SHUNT_AT(shunt_table, state, 48);
SHUNT_AT(shunt_table, state_capacity, 52);
SHUNT_AT(shunt_table, changes, 56);
SHUNT_AT(shunt_table, reserved, 60);
SHUNT_SIZE(shunt_server, 32, 4);
SHUNT_AT(shunt_server, weight, 0);
SHUNT_AT(shunt_server, active, 4);
SHUNT_AT(shunt_server, inactive, 8);
SHUNT_AT(shunt_server, reserved, 12);
SHUNT_AT(shunt_server, address, 16);
SHUNT_SIZE(shunt_flow, 40, 4);
SHUNT_AT(shunt_flow, source, 0);
SHUNT_AT(shunt_flow, destination, 16);
SHUNT_AT(shunt_flow, source_port, 32);
SHUNT_AT(shunt_flow, destination_port, 34);
SHUNT_AT(shunt_flow, protocol, 36);
SHUNT_SIZE(shunt_changes, 4 + 2 * SHUNT_CAPACITY_MAX, 4);
SHUNT_AT(shunt_changes, slots, 4);

/* Exports. The first three must be defined, with SHUNT_VERSION("1.2.3") beside them if you like. */
#define SHUNT_EXPORT(name) __attribute__((export_name(#name)))
#define SHUNT_VERSION(text) \
    __asm__(".section .custom_section.shunt.version,\"\",@\n\t.ascii \"" text "\"\n")

SHUNT_EXPORT(shunt_abi_version) int32_t shunt_abi_version(void);
SHUNT_EXPORT(shunt_init)
struct shunt_table *shunt_init(uint32_t worker, uint32_t workers, uint64_t seed);
SHUNT_EXPORT(shunt_schedule) int32_t shunt_schedule(void);
SHUNT_EXPORT(shunt_update) void shunt_update(void);
SHUNT_EXPORT(shunt_configure) int32_t shunt_configure(uint32_t length);
SHUNT_EXPORT(shunt_save) int32_t shunt_save(void);
SHUNT_EXPORT(shunt_restore) int32_t shunt_restore(uint32_t length);

/* Imports. Those that are not called do not end up in the module. */
#define SHUNT_IMPORT(name) __attribute__((import_module("shunt"), import_name(#name)))

/* A line of UTF-8 for the director's log, at most 200 bytes; ten lines a second. */
SHUNT_IMPORT(log) void shunt_log(const char *text, uint32_t length);
/* Milliseconds of the director's monotonic clock, as of this turn of the worker. */
SHUNT_IMPORT(now_ms) uint64_t shunt_now_ms(void);
/* The next number of this instance's generator, seeded as shunt_init is told. */
SHUNT_IMPORT(random) uint64_t shunt_random(void);

#endif
