/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * What the maps say of a packet that opens a connection. The model of this is `image/evaluate.rs`.
 *
 * Hosts and networks say since which version they say what they say, and what they said before: the packet takes what is
 * of its version. So any number of rows changes in one step, when the version does. */
#pragma once

#include "table.h"

/* The policies of a pod; 0 lets everything pass. Pod 0 has no others. */
struct pod {
	__u32 ingress;
	__u32 egress;
	__u32 ingress_of_hairpin;
	__u32 egress_of_hairpin;
	__u32 egress_to_node;
	__u32 unused;
};

/* An address: its class, the pod that it is, or 0, and that pod's policies; none if too much is changing. */
struct end {
	__u32 class;
	__u32 pod;
	const volatile struct pod *policies;
};

/* The class is that of the address itself, not of the network it lies in. */
#define HAS_CLASS (1U << 31)
/* The address is one of a node of the scope; said in strict mode only. */
#define IS_NODE (1U << 30)
#define CLASS (IS_NODE - 1)

/* What is known of an address, since a version. Written before anything leads to it, and never changed while a packet may
 * be looking. Row 0 is of hosts that nothing is known of: zeros, since ever. */
struct host {
	struct address address;
	__u32 previous; /* The row of what was known before; at last 0. */
	__u64 since;
	__u32 class;
	__u32 pod;
	struct pod policies; /* As the pod's row has them: so the packet needs no more than this line of the cache. */
};

#define HISTORY 7

struct network_key {
	__u32 prefix;
	struct address address;
};

/* The latest first. The kernel replaces it as a whole. */
struct network {
	__u64 since[HISTORY];
	__u32 class[HISTORY + 1];
};

struct port_key {
	__u32 list;
	__u8 protocol;
	__u8 prefix;
	__u16 port;
};

/* What is inside a packet. */
enum content {
	UNREADABLE,
	WITH_PORT,
	WITHOUT_PORT,
	LATER_FRAGMENT,
	NEIGHBOUR_DISCOVERY,
};

struct packet {
	__u64 version;
	struct address source;
	struct address destination;
	__u32 length; /* From the IP header on. */
	__u32 counter; /* Of what decided last. */
	__u8 reply; /* It answers the packet that is judged, and is described as that one. */
	/* The verifier does not follow what bytes hold that stand here, and so need not tell it apart: that took three times
	 * as long with the ports where `reply` is. */
	__u8 counted; /* The side that another hook counts, as bit of its guard: here it is counted only if it denies. */
	__u8 content;
	__u8 protocol;
	__u16 source_port;
	__u16 port;
};

/* Counters of what is no word's. */
enum counter {
	GUARD_OF_INGRESS,
	GUARD_OF_EGRESS,
};

/* How often what is known of an address may change while one packet is judged. What is older than that is dropped. */
#define GENERATIONS 8

INLINE struct end end_of(const struct address *address, __u64 version)
{
	struct end end = {};
	__u32 row = 0;
	const volatile struct entry *entry = find(HOSTS, STATE->hosts_mask, digest_of(address));
	if (entry)
		row = entry->value;
	/* A row is given to another address only once every packet that could know it is through. So it is of this
	 * address, unless the entry has become another's meanwhile, or two have one digest: then it has none. */
	const volatile struct host *host = bpf_map_lookup_elem(HOST_ROWS, &row);
	if (!host)
		return end;
	if (row && !is_same(&host->address, address)) {
		row = 0;
		host = bpf_map_lookup_elem(HOST_ROWS, &row);
	}
#pragma clang loop unroll(disable)
	for (int generation = 0; generation < GENERATIONS && host; generation++) {
		if (version >= host->since) {
			end.class = host->class;
			end.pod = host->pod;
			end.policies = &host->policies;
			return end;
		}
		row = host->previous;
		host = bpf_map_lookup_elem(HOST_ROWS, &row);
	}
	return end;
}

INLINE __u32 class_of(__u32 class, const struct address *address, __u64 version)
{
	if (class & HAS_CLASS)
		return class & CLASS;
	struct network_key key = { .prefix = 160, .address = *address };
	struct network *network = bpf_map_lookup_elem(NETWORKS, &key);
	if (!network)
		return 0;
	for (int generation = 0; generation < HISTORY; generation++)
		if (version >= network->since[generation])
			return network->class[generation];
	return network->class[HISTORY];
}

/* Strict mode: whether this is an address of pods that no known pod owns. */
INLINE int is_unknown(struct end end, const struct address *address)
{
	if (end.pod || end.class & IS_NODE)
		return 0;
	struct network_key key = { .prefix = 160, .address = *address };
	return bpf_map_lookup_elem(RANGES, &key) != 0;
}

/* Strict mode: the pod of addresses of pods that no known pod owns. Its policies let nothing pass. */
#define NOBODY 1

/* Strict mode: makes an end the pod Nobody. */
INLINE void be_nobody(struct end *end)
{
	__u32 nobody = NOBODY;
	end->pod = NOBODY;
	end->policies = bpf_map_lookup_elem(PODS, &nobody);
}

INLINE int has_ports(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* What protocols with ports are called in a word: 0 TCP, 1 UDP, 2 SCTP. Their numbers are 6, 17 and 132. */
INLINE __u32 place(__u32 protocol)
{
	return (protocol >> 4) - (protocol >> 7) * 6;
}

struct counted {
	__u64 packets;
	__u64 bytes;
};

INLINE void count(struct packet *packet, __u32 counter, int is_counted)
{
	packet->counter = counter;
	if (is_counted)
		return;
	struct counted *counted = bpf_map_lookup_elem(COUNTS, &packet->counter);
	if (counted) {
		counted->packets++;
		counted->bytes += packet->length;
	}
}

/* The bits of a word are explained in `image/word.rs`. */
OUTLINE int passes(__u32 policy, __u32 class, const struct address *peer, struct packet *packet, __u32 guard);

/* What user space is told of a packet that is dropped. */
struct denial {
	__u64 version;
	struct address source;
	struct address destination;
	__u32 counter;
	__u16 source_port;
	__u16 port;
	__u8 protocol;
	__u8 content;
	__u8 is_ingress;
	__u8 unused[5];
};

/* How much of it each processor tells. */
struct rate {
	__u64 second;
	__u64 told;
	__u64 lost; /* There was no room. */
};
#define MOST_A_SECOND 256

INLINE int drop(struct packet *packet, int is_ingress)
{
	__u32 zero = 0;
	struct rate *rate = bpf_map_lookup_elem(RATE, &zero);
	if (!rate)
		return NF_DROP;
	__u64 second = bpf_ktime_get_ns() >> 30;
	if (rate->second != second) {
		rate->second = second;
		rate->told = 0;
	}
	if (rate->told >= MOST_A_SECOND)
		return NF_DROP;
	rate->told++;
	struct denial denial = {
		.version = packet->version,
		.source = packet->source,
		.destination = packet->destination,
		.counter = packet->counter,
		.source_port = packet->source_port,
		.port = packet->port,
		.protocol = packet->protocol,
		.content = packet->content,
		.is_ingress = is_ingress,
	};
	if (bpf_ringbuf_output(DENIED, &denial, sizeof(denial), BPF_RB_NO_WAKEUP))
		rate->lost++;
	return NF_DROP;
}
