// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Takes the packets of virtual services from the interface and leaves all others to the kernel.
//
// A frame that AF_XDP has taken cannot go back, so in doubt a packet passes, counted by the
// reason. No header is included: the object depends on clang alone. It is built by ../build-steer
// and loaded by steer.rs, which names the same numbers.

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
enum { XDP_DROP = 1, XDP_PASS = 2, XDP_REDIRECT = 4 };
enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_XSKMAP = 17 };
enum { F_NO_PREALLOC = 1, F_MMAPABLE = 1024 };
static void *(*const lookup)(const void *map, const void *key) = (void *)1;
static long (*const redirect_map)(const void *map, u64 key, u64 flags) = (void *)51;

// PassKind in steer.rs, and what does not pass.
enum kind { ARP, OTHER_PROTOCOL, MULTICAST, FOREIGN_MAC, OTHER_ADDRESS, OTHER_PORT, FRAGMENT,
	    MALFORMED, NO_SOCKET, REDIRECTED, SHED, KINDS };

// IPv4 addresses are v4-mapped, and still told from an IPv6 packet to a mapped address by the
// version. A VIP itself, whatever the service, is here with port and protocol 0.
struct service { u32 address[4]; u16 port; u8 protocol; u8 version; };

struct map { u32 type, key_size, value_size, entries, flags; };
struct map SEC("maps") services = { MAP_HASH, sizeof(struct service), 1, 65536, F_NO_PREALLOC };
struct map SEC("maps") sockets = { MAP_XSKMAP, 4, 4, 1, 0 }; // as many as there are queues
// Set by a worker that cannot keep up (shedding.rs). A cache line for each queue.
struct line { volatile u32 on; u32 rest[15]; };
struct map SEC("maps") shedding = { MAP_ARRAY, 4, sizeof(struct line), 1, F_MMAPABLE };
struct map SEC("maps") counts = { MAP_PERCPU_ARRAY, 4, 8, KINDS, 0 };

const volatile u16 own_mac[3]; // set before the program is loaded

enum { TCP = 6, UDP = 17, ICMP = 1, ICMP6 = 58 };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT_HEADER = 44, AUTHENTICATION = 51, OPTIONS = 60 };
enum { TAGS_MAX = 2, EXTENSIONS_MAX = 8 };

// The first byte behind the IPv6 extension headers, or 0 if there is none. A fragment header
// is where it ends: only the first fragment has ports, and they go where the others go.
static inline const u8 *skip_extensions(const u8 *at, const u8 *end, u8 *protocol)
{
	for (int i = 0; i <= EXTENSIONS_MAX; i++) {
		u32 length;
		if (*protocol != HOP_BY_HOP && *protocol != ROUTING && *protocol != OPTIONS &&
		    *protocol != AUTHENTICATION)
			return at;
		if (at + 8 > end)
			return 0;
		// RFC 8200 4.3 to 4.6: in 8 octets, less the first. RFC 4302 2.2: in 4, less two.
		length = *protocol == AUTHENTICATION ? (at[1] + 2) * 4 : (at[1] + 1) * 8;
		*protocol = at[0];
		at += length;
	}
	return 0;
}

// What to do with an IP packet. `at` is the first byte behind the IP headers, 0 if they do not
// end, and `to` has the address, the version and, here only, the protocol of what follows.
static inline enum kind locate(const u8 *at, const u8 *end, struct service *to, int fragment)
{
	enum kind kind = OTHER_PORT; // if the address is a VIP

	if (fragment) {
		kind = FRAGMENT;
	} else if (!at) {
		kind = MALFORMED;
	} else if (to->protocol == TCP || to->protocol == UDP) {
		if (at + 4 <= end) {
			to->port = *(const u16 *)(at + 2);
			if (lookup(&services, to))
				return REDIRECTED;
		} else {
			kind = MALFORMED;
		}
	} else if (to->protocol == (to->version == 4 ? ICMP : ICMP6)) {
		if (at + 8 > end)
			kind = MALFORMED;
		else if (to->version == 4 ? at[0] == 3 || at[0] == 11 || at[0] == 12 // RFC 792
					  : at[0] >= 1 && at[0] <= 4) // RFC 4443
			kind = REDIRECTED;
	}
	to->port = 0;
	to->protocol = 0;
	return lookup(&services, to) ? kind : OTHER_ADDRESS;
}

static inline enum kind ipv4(const u8 *at, const u8 *end)
{
	struct service to = { .address = { 0, 0, net32(0xffff) }, .version = 4 };
	u32 length;

	if (at + 20 > end)
		return MALFORMED;
	length = (at[0] & 15) * 4;
	if (at[0] >> 4 != 4 || length < 20 || at + length > end)
		return MALFORMED;
	to.address[3] = *(const u32 *)(at + 16);
	to.protocol = at[9];
	return locate(at + length, end, &to, (*(const u16 *)(at + 6) & net16(0x3fff)) != 0);
}

static inline enum kind ipv6(const u8 *at, const u8 *end)
{
	struct service to = { .version = 6 };
	u8 protocol;

	if (at + 40 > end || at[0] >> 4 != 6)
		return MALFORMED;
	for (int i = 0; i < 4; i++)
		to.address[i] = *(const u32 *)(at + 24 + 4 * i);
	protocol = at[6];
	at = skip_extensions(at + 40, end, &protocol);
	to.protocol = protocol;
	return locate(at, end, &to, protocol == FRAGMENT_HEADER);
}

static inline enum kind ethernet(const u8 *at, const u8 *end)
{
	const u16 *mac = (const u16 *)at;
	u16 type;

	if (at + 14 > end)
		return MALFORMED;
	type = *(const u16 *)(at + 12);
	at += 14;
	for (int i = 0; i < TAGS_MAX && (type == net16(0x8100) || type == net16(0x88a8)); i++) {
		if (at + 4 > end)
			return MALFORMED;
		type = *(const u16 *)(at + 2);
		at += 4;
	}
	if (type == net16(0x0806))
		return ARP;
	if (type != net16(0x0800) && type != net16(0x86dd))
		return OTHER_PROTOCOL;
	if (*(const u8 *)mac & 1)
		return MULTICAST;
	// A switch that floods would make two directors pass a frame to and fro for ever.
	if (mac[0] != own_mac[0] || mac[1] != own_mac[1] || mac[2] != own_mac[2])
		return FOREIGN_MAC;
	return type == net16(0x0800) ? ipv4(at, end) : ipv6(at, end);
}

SEC("xdp") int steer(struct xdp_md *packet)
{
	u32 kind = ethernet((void *)(long)packet->data, (void *)(long)packet->data_end);
	u32 queue = packet->rx_queue_index;
	int action = XDP_PASS;
	const struct line *shed;
	u64 *count;

	shed = kind == REDIRECTED ? lookup(&shedding, &queue) : 0;
	if (shed && shed->on) {
		kind = SHED;
		action = XDP_DROP;
	} else if (kind == REDIRECTED) {
		action = redirect_map(&sockets, queue, XDP_PASS);
		if (action != XDP_REDIRECT)
			kind = NO_SOCKET;
	}
	count = lookup(&counts, &kind);
	if (count)
		++*count;
	return action;
}

char _license[] SEC("license") = "Apache-2.0 OR MIT";
