/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Hash tables in arrays that user space has in its memory, and is the only one to write. The kernel's own hash maps give
 * the memory of a row to another at once, and a look-up can miss a row that is just being replaced; here a value is
 * replaced by one store, and nothing is used again before every packet that may know it is through (`apply/table.rs`). */
#pragma once

#include "patched.h"

struct address {
	__u32 family; /* 4 or 6: an IPv4 address inside an IPv6 one is another address (NP-068). */
	__u8 bytes[16]; /* IPv4: the first four, the others zero. */
};

struct state {
	__u64 version; /* Of the ruleset. */
	__u32 keeps; /* Open connections are not judged again. */
	__u32 is_strict; /* An address of the ranges without a pod is nobody's. */
	__u64 seed[2]; /* Of the digests, so that nobody can choose addresses of one place. */
	__u32 hosts_mask; /* The places of the tables, less one. */
	__u32 words_mask;
	__u32 alone_mask;
	__u32 places_mask;
};

/* A place of a table. Keys 0 (nothing, and nothing behind it), 1 and 2 (nothing any more) are no keys. */
struct entry {
	__u64 key;
	__u64 value;
};

/* No key is farther from where its digest leads. */
#define PROBES 32

INLINE __u64 mixed(__u64 number)
{
	number *= 0x9e3779b97f4a7c15ULL;
	number ^= number >> 32;
	number *= 0xd6e8feb86659fd93ULL;
	return number ^ number >> 32;
}

INLINE const volatile struct entry *find(void *map, __u32 mask, __u64 key)
{
	__u32 at = mixed(key ^ STATE->seed[0]);
#pragma clang loop unroll(disable)
	for (int probe = 0; probe < PROBES; probe++) {
		__u32 place = (at + probe) & mask;
		const volatile struct entry *entry = bpf_map_lookup_elem(map, &place);
		if (!entry)
			return 0;
		__u64 found = entry->key;
		if (found == key)
			return entry;
		if (!found)
			return 0;
	}
	return 0;
}

/* The words of the bytes: aligned as the verifier wants them. */
#define WORD(address, number) (*(const __u32 *)((address)->bytes + 4 * (number)))

/* What stands for an address in the table: never 0, 1 or 2. */
INLINE __u64 digest_of(const struct address *address)
{
	__u64 low = WORD(address, 0) | (__u64)WORD(address, 1) << 32;
	__u64 high = WORD(address, 2) | (__u64)WORD(address, 3) << 32;
	return mixed(mixed(low ^ STATE->seed[0]) + high + (STATE->seed[1] ^ address->family)) | 1ULL << 63;
}

INLINE int is_same(const volatile struct address *one, const struct address *other)
{
	return one->family == other->family && *(const volatile __u32 *)one->bytes == WORD(other, 0) &&
	       *(const volatile __u32 *)(one->bytes + 4) == WORD(other, 1) &&
	       *(const volatile __u32 *)(one->bytes + 8) == WORD(other, 2) &&
	       *(const volatile __u32 *)(one->bytes + 12) == WORD(other, 3);
}
