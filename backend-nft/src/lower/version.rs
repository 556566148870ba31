//! Versions of sets: the same set under another name, so that rules can switch to new members all at once.
//!
//! A version is a suffix of a name, `-v` and eight hexadecimal digits of the content. What refers to a version is one
//! itself; without the suffixes, all names are what they are without versions.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Display;

use super::builder::digest;
use crate::script::Name;

/// Hexadecimal digits of a version.
const DIGITS: usize = 8;

/// What is there of sets already: under which names, and with how much room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions {
    /// Sets that stand under other names than the lowering gives them.
    pub(crate) names: BTreeMap<Name, Name>,
    /// Room for members, by the name that a set stands under.
    pub(crate) rooms: BTreeMap<Name, u32>,
}

impl Versions {
    /// Nothing is there.
    pub(crate) const fn new() -> Self {
        Self { names: BTreeMap::new(), rooms: BTreeMap::new() }
    }

    /// Returns for how many members a set under this name is to have room: what it has, if they fit.
    pub(super) fn room(&self, name: &Name, members: usize) -> u32 {
        let there = self.rooms.get(name).copied();
        let fits = |room: &u32| usize::try_from(*room).is_ok_and(|room| members <= room);
        there.filter(fits).unwrap_or_else(|| fresh_room(members))
    }
}

/// Returns the room of a new set: some more members can come before it must be made anew.
///
/// The kernel takes 4/3 of it, up to the next power of two, as buckets, so that three fourths of that waste none.
fn fresh_room(members: usize) -> u32 {
    const LEAST: u32 = 24;
    const MOST: u32 = 3 << 28;
    let wanted = u32::try_from(members.saturating_add(members / 8).saturating_add(4));
    let wanted = wanted.unwrap_or(MOST).min(MOST);
    let mut room = LEAST;
    while room < wanted {
        room *= 2;
    }
    room
}

/// Returns a name with the version of a content.
pub(crate) fn versioned(name: &str, content: &impl Display) -> Name {
    let digest = digest(&alloc::format!("{content}"));
    alloc::format!("{name}-v{}", digest.get(..DIGITS).unwrap_or_default()).into()
}

/// Returns a name without its version.
#[cfg(any(feature = "apply", test))]
pub(crate) fn unversioned(name: &str) -> &str {
    name.rsplit_once("-v").filter(|(_, version)| is_version(version)).map_or(name, |(name, _)| name)
}

fn is_version(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Names something by its content, which may refer to versions: those do not count, but make the name one.
pub(super) fn named(prefix: &str, content: &str) -> Name {
    // How long lines are broken depends on the length of names.
    let content = content.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let mut plain = String::with_capacity(content.len());
    for (index, part) in content.split("-v").enumerate() {
        let rest = part.get(..DIGITS).filter(|version| index > 0 && is_version(version));
        match rest.and_then(|_| part.get(DIGITS..)) {
            Some(rest) => plain.push_str(rest),
            None if index > 0 => {
                plain.push_str("-v");
                plain.push_str(part);
            }
            None => plain.push_str(part),
        }
    }
    let name = alloc::format!("{prefix}-{}", digest(&plain));
    if plain == content { name.into() } else { versioned(&name, &content) }
}

#[cfg(test)]
mod tests {
    use super::{Versions, fresh_room, named, unversioned, versioned};
    use crate::script::Name;

    #[test]
    fn a_set_keeps_its_room_as_long_as_its_members_fit() {
        let mut versions = Versions::new();
        let name = Name::from("s1-4");
        versions.rooms.insert(name.clone(), 24);
        assert_eq!(versions.room(&name, 1), 24);
        assert_eq!(versions.room(&name, 24), 24);
        assert_eq!(versions.room(&name, 25), 48);
        assert_eq!(versions.room(&"s2-4".into(), 1), 24);
        for members in [0, 1, 8, 9, 100, 100_000, usize::MAX] {
            let room = usize::try_from(fresh_room(members)).unwrap();
            assert!(room > members || members == usize::MAX, "{members}: {room}");
        }
    }

    #[test]
    fn a_version_changes_the_suffix_of_a_name_only() {
        let set = versioned("s1-4", &"10.0.0.1");
        assert_eq!(unversioned(&set), "s1-4");
        assert_eq!(unversioned("s1-4"), "s1-4");
        let plain = named("ingress-4", "ip saddr @s1-4 accept");
        let version = named("ingress-4", &alloc::format!("ip saddr @{set} accept"));
        assert_eq!(unversioned(&plain), &*plain);
        assert_ne!(version, plain);
        assert_eq!(unversioned(&version), &*plain);
        assert_ne!(named("a", "foo-verdict"), named("a", "fooerdict"));
    }
}
