// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Both ends of the wire bench: `offer` makes the frames, `sink` counts those that come back, and
// `swap` is a contender, the MAC swap of a director that lives in the kernel. No header is
// included: the object depends on clang alone. It is built by ./build and loaded by programs.rs,
// which names the same numbers.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define inline inline __attribute__((always_inline))
#define net16(value) __builtin_bswap16(value)
#define net32(value) __builtin_bswap32(value)

// From linux/bpf.h, whose numbers are the kernel's contract with user space.
struct xdp_md { u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index; };
enum { XDP_ABORTED = 0, XDP_DROP = 1, XDP_TX = 3 };
enum { MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6 };
static void *(*const lookup)(const void *map, const void *key) = (void *)1;
static u64 (*const ktime)(void) = (void *)5;

// What `offer` is told, and what it tells. Only one call of it runs at a time.
struct order {
	u64 first, flows;   // flows from `first` on, so many
	u64 stride;	    // from one frame's flow to the next's, modulo `flows`; 1 is in order
	u64 flags;	    // of TCP
	u64 interval;	    // 1/256 ns between two frames; 0: as fast as can be
	u64 stamp;	    // whether frames carry the time
	u64 next;	    // the next frame's flow
	u64 due;	    // the next frame's time, 1/256 ns
	u64 sent;
};

// Real servers 0 to 15 by their MAC addresses; who made the frame, by a mere swap; anyone else.
enum { SERVERS = 16, SWAPPED = SERVERS, STRAY, DESTINATIONS };
// Times in ns by their highest bit and the four below it, which is 6% at most.
enum { BUCKETS_BITS = 4, BUCKETS = 64 << BUCKETS_BITS };

struct map { u32 type, key_size, value_size, entries, flags; };
struct map SEC("maps") orders = { MAP_ARRAY, 4, sizeof(struct order), 1, 0 };
struct map SEC("maps") arrived = { MAP_PERCPU_ARRAY, 4, 8, DESTINATIONS, 0 };
struct map SEC("maps") latencies = { MAP_PERCPU_ARRAY, 4, 8, BUCKETS, 0 };

// A frame's layout: Ethernet, IPv4, TCP, each without options, and the time in the six bytes that
// pad the shortest frame.
enum { SOURCE = 26, PORT = 34, FLAGS = 47, STAMP = 54, SHORTEST = 60 };
enum { DIRECTOR = 1, GENERATOR = 2, SERVER = 16 }; // the last byte of MAC addresses 02:00:00:00:00:xx

// A frame that is late by more is not made up for: a burst at full speed after the generator was
// held up would test something else than the rate.
enum { LATE_MAX = 50000 * 256, LOOKS_MAX = 4096 };

static inline void write_mac(u8 *at, u8 last)
{
	*(u16 *)at = net16(0x0200);
	*(u16 *)(at + 2) = 0;
	*(u16 *)(at + 4) = net16(last);
}

static inline void wait_until_due(struct order *order)
{
	u64 now = ktime() << 8;

	for (int i = 0; i < LOOKS_MAX && now < order->due; i++)
		now = ktime() << 8;
	if (now > order->due + LATE_MAX)
		order->due = now - LATE_MAX;
	order->due += order->interval;
}

// A frame that is run here again and again by BPF_PROG_TEST_RUN. Its memory comes back as the
// last forwarder has left it, so that the MAC addresses are always written.
SEC("xdp") int offer(struct xdp_md *packet)
{
	u8 *at = (void *)(long)packet->data, *end = (void *)(long)packet->data_end;
	u32 zero = 0, flow;
	struct order *order = lookup(&orders, &zero);
	u64 now;

	if (!order || at + SHORTEST > end)
		return XDP_ABORTED;
	if (order->interval)
		wait_until_due(order);
	flow = order->first + order->next;
	order->next += order->stride;
	if (order->next >= order->flows)
		order->next -= order->flows;
	write_mac(at, DIRECTOR);
	write_mac(at + 6, GENERATOR);
	// 32768 ports a client.
	*(u16 *)(at + SOURCE) = net16(0x0b00 + (flow >> 31));
	*(u16 *)(at + SOURCE + 2) = net16((u16)(flow >> 15));
	*(u16 *)(at + PORT) = net16(1024 + (flow & 0x7fff));
	at[FLAGS] = order->flags;
	order->sent++;
	now = order->stamp ? ktime() : 0;
	*(u16 *)(at + STAMP) = now >> 32;
	*(u16 *)(at + STAMP + 2) = now >> 16;
	*(u16 *)(at + STAMP + 4) = now;
	return XDP_TX;
}

static inline void note_latency(u64 stamp)
{
	u64 took = (ktime() - stamp) & 0xffffffffffff, *count;
	u32 bit = 0, bucket;

	for (u64 rest = took >> (BUCKETS_BITS + 1); rest && bit < 48; rest >>= 1)
		bit++;
	bucket = (bit << BUCKETS_BITS) + (took >> bit);
	count = lookup(&latencies, &bucket);
	if (count)
		++*count;
}

SEC("xdp") int sink(struct xdp_md *packet)
{
	u8 *at = (void *)(long)packet->data, *end = (void *)(long)packet->data_end;
	u32 destination = STRAY;
	u64 *count, stamp;

	if (at + SHORTEST > end)
		return XDP_DROP;
	// From the director's MAC address to one of ours.
	if (*(u16 *)at == net16(0x0200) && *(u32 *)(at + 6) == net32(0x02000000) &&
	    *(u16 *)(at + 10) == net16(DIRECTOR) && !*(u16 *)(at + 2) && !at[4]) {
		if (at[5] == GENERATOR)
			destination = SWAPPED;
		else if (at[5] >= SERVER && at[5] < SERVER + SERVERS)
			destination = at[5] - SERVER;
	}
	count = lookup(&arrived, &destination);
	if (count)
		++*count;
	stamp = (u64)*(u16 *)(at + STAMP) << 32 | (u32)*(u16 *)(at + STAMP + 2) << 16 |
		*(u16 *)(at + STAMP + 4);
	if (stamp)
		note_latency(stamp);
	return XDP_DROP;
}

SEC("xdp") int swap(struct xdp_md *packet)
{
	u8 *at = (void *)(long)packet->data, *end = (void *)(long)packet->data_end;

	if (at + SHORTEST > end)
		return XDP_DROP;
	for (int i = 0; i < 6; i += 2) {
		u16 word = *(u16 *)(at + i);
		*(u16 *)(at + i) = *(u16 *)(at + 6 + i);
		*(u16 *)(at + 6 + i) = word;
	}
	return XDP_TX;
}

char _license[] SEC("license") = "Apache-2.0 OR MIT";
