/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The part of the kernel's user API that the programs use. Kept here so that no system header can change a byte of what
 * is compiled. */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define INLINE static __attribute__((always_inline)) inline
/* A function of its own, behind the program in its section: a call within a section needs no relocation. */
#define OUTLINE static __attribute__((noinline, section("judge")))
#define SECTION(name) __attribute__((section(name), used))

#define NF_DROP 0
#define NF_ACCEPT 1
#define NF_INET_LOCAL_IN 1
#define NF_INET_FORWARD 2

/* What the lowest bits of `_nfct` say (`enum ip_conntrack_info`). */
#define IP_CT_ESTABLISHED 0
#define IP_CT_RELATED 1
#define IP_CT_NEW 2
#define IP_CT_ESTABLISHED_REPLY 3
#define IP_CT_RELATED_REPLY 4

#define IPPROTO_HOPOPTS 0
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_AH 51
#define IPPROTO_ICMPV6 58
#define IPPROTO_DSTOPTS 60
#define IPPROTO_SCTP 132

#define BPF_RB_NO_WAKEUP 1

/* What a netfilter program is given. */
struct nf_hook_state {
	__u8 hook;
	__u8 pf;
};
struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	void *skb;
};

struct bpf_dynptr {
	__u64 opaque[2];
} __attribute__((aligned(8)));

/* What a program of traffic control is given, as far as it is used. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
};

/* Whoever comes next decides; nobody does. */
#define TC_ACT_UNSPEC -1
#define TC_ACT_SHOT 2

/* As in a packet, read by a little-endian machine. */
#define ETH_P_IP 0x0008
#define ETH_P_ARP 0x0608
#define ETH_P_IPV6 0xdd86

/* What stands before a packet's IP header at an interface of a pod. */
#define ETH_HLEN 14

#define BPF_HDR_START_NET 1

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static long (*bpf_ringbuf_output)(void *ring, const void *data, __u64 size, __u64 flags) = (void *)130;
static long (*bpf_tail_call)(void *ctx, void *map, __u32 index) = (void *)12;
static long (*bpf_dynptr_read)(void *to, __u32 length, const struct bpf_dynptr *from, __u32 offset,
			       __u64 flags) = (void *)201;
static long (*bpf_skb_load_bytes_relative)(const void *skb, __u32 offset, void *to, __u32 length,
					   __u32 start) = (void *)68;
