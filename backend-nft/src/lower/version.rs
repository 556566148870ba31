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

/// Sets that stand under other names than the lowering gives them.
pub(crate) type Versions = BTreeMap<Name, Name>;

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
    use super::{named, unversioned, versioned};

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
