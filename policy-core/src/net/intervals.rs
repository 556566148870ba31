//! Sets of integers as sorted, disjoint, non-adjacent closed intervals.

use alloc::vec::Vec;
use core::fmt;

/// An integer that intervals are made of.
pub trait Point: Copy + Ord + fmt::Debug {
    /// The smallest.
    const MIN: Self;
    /// The largest.
    const MAX: Self;
    /// The next larger one; `None` at [`Point::MAX`].
    fn successor(self) -> Option<Self>;
    /// The next smaller one; `None` at [`Point::MIN`].
    fn predecessor(self) -> Option<Self>;
}

macro_rules! point {
    ($($integer:ty),*) => {$(
        impl Point for $integer {
            const MIN: Self = Self::MIN;
            const MAX: Self = Self::MAX;
            fn successor(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn predecessor(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}
point!(u16, u32, u128);

/// A set of integers.
///
/// INVARIANT (canonical intervals): sorted, disjoint, with at least one missing integer between neighbours; upheld by
/// every constructor, so that equal sets are equal values.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Intervals<T>(Vec<(T, T)>);

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Point> Intervals<T> {
    /// Every integer.
    #[must_use]
    pub fn all() -> Self {
        Self(alloc::vec![(T::MIN, T::MAX)])
    }

    /// The integers from `low` to `high`, both included; none if `low > high`.
    #[must_use]
    pub fn range(low: T, high: T) -> Self {
        if low <= high { Self(alloc::vec![(low, high)]) } else { Self::default() }
    }

    /// The union of ranges in any order, overlapping or not. Ranges with `low > high` hold nothing.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = (T, T)>) -> Self {
        let mut ranges: Vec<(T, T)> =
            ranges.into_iter().filter(|(low, high)| low <= high).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                // Adjacent counts as overlapping: 1-2 and 3-4 are 1-4.
                Some((_, end)) if end.successor().is_none_or(|next| low <= next) => {
                    *end = high.max(*end);
                }
                Some(_) | None => merged.push((low, high)),
            }
        }
        Self(merged)
    }

    /// Returns the intervals, ascending.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (T, T)> + '_ {
        self.0.iter().copied()
    }

    /// Returns whether there is no member.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether every integer is a member.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.as_slice() == [(T::MIN, T::MAX)]
    }

    /// Returns whether `point` is a member. Costs O(log n).
    #[must_use]
    pub fn contains(&self, point: T) -> bool {
        let after = self.0.partition_point(|(low, _)| *low <= point);
        after
            .checked_sub(1)
            .and_then(|index| self.0.get(index))
            .is_some_and(|(_, high)| point <= *high)
    }

    /// Returns the members of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.iter().chain(other.iter()))
    }

    /// Returns the members of both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.iter().peekable(), other.iter().peekable());
        let mut shared = Vec::new();
        while let (Some(&(low, high)), Some(&(other_low, other_high))) = (left.peek(), right.peek())
        {
            let (start, end) = (low.max(other_low), high.min(other_high));
            if start <= end {
                shared.push((start, end));
            }
            if high <= other_high {
                left.next();
            } else {
                right.next();
            }
        }
        Self(shared)
    }

    /// Returns what is not a member.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut start = Some(T::MIN);
        for (low, high) in self.iter() {
            if let (Some(from), Some(to)) = (start, low.predecessor())
                && from <= to
            {
                gaps.push((from, to));
            }
            start = high.successor();
        }
        if let Some(from) = start {
            gaps.push((from, T::MAX));
        }
        Self(gaps)
    }

    /// Returns the members that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::Intervals;

    type Ports = Intervals<u16>;

    /// Small numbers and both ends of the domain, so that edges meet often.
    fn ports() -> impl Strategy<Value = Ports> {
        let point = prop_oneof![0..40_u16, (u16::MAX - 5)..=u16::MAX];
        proptest::collection::vec((point.clone(), point), 0..8).prop_map(Ports::from_ranges)
    }

    fn points() -> impl Iterator<Item = u16> {
        (0..45).chain(u16::MAX - 8..=u16::MAX)
    }

    fn assert_canonical(set: &Ports) {
        let ranges: Vec<_> = set.iter().collect();
        assert!(ranges.iter().all(|(low, high)| low <= high), "{set:?}");
        assert!(
            ranges.windows(2).all(|pair| u32::from(pair[0].1) + 1 < u32::from(pair[1].0)),
            "{set:?}"
        );
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_membership(a in ports(), b in ports()) {
            let (union, both, rest, not) = (a.union(&b), a.intersection(&b), a.difference(&b), a.complement());
            [&union, &both, &rest, &not].into_iter().for_each(assert_canonical);
            for point in points() {
                prop_assert_eq!(union.contains(point), a.contains(point) || b.contains(point));
                prop_assert_eq!(both.contains(point), a.contains(point) && b.contains(point));
                prop_assert_eq!(rest.contains(point), a.contains(point) && !b.contains(point));
                prop_assert_eq!(not.contains(point), !a.contains(point));
            }
        }

        #[test]
        fn equal_members_are_equal_values(ranges in proptest::collection::vec((0..30_u16, 0..30_u16), 0..8)) {
            let forward = Ports::from_ranges(ranges.iter().copied());
            let single = Ports::from_ranges(points().filter(|p| forward.contains(*p)).map(|p| (p, p)));
            let backward = Ports::from_ranges(ranges.iter().rev().copied());
            prop_assert_eq!(&forward, &single);
            prop_assert_eq!(&forward, &backward);
        }
    }

    #[test]
    fn the_whole_domain_has_no_complement() {
        assert!(Ports::all().complement().is_empty());
        assert!(Ports::default().complement().is_all());
    }
}
