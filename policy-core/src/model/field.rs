//! A field of an object: absent, null, given, or given in a form this reader does not understand.

/// The four states a field of a Kubernetes object can be in.
///
/// Kubernetes treats absent and null alike almost everywhere, and *empty* differently from both (NP-030); readers,
/// diagnostics and the evaluator each need to see which one the author wrote.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Field<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// The key is there with the value `null`.
    Null,
    /// The key is there with a value (which may be empty).
    Given(T),
    /// The key is there with a value that cannot be read. Never produced when reading strictly; on live objects it
    /// makes whatever depends on it fail closed (DEC-16, NP-060).
    Unreadable,
}

impl<T> Field<T> {
    /// Returns the value, or `None` if it is absent, null or unreadable.
    #[must_use]
    pub const fn given(&self) -> Option<&T> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Null | Self::Unreadable => None,
        }
    }

    /// Returns whether the field says nothing: absent or null.
    #[must_use]
    pub const fn is_unset(&self) -> bool {
        match self {
            Self::Absent | Self::Null => true,
            Self::Given(_) | Self::Unreadable => false,
        }
    }

    /// Returns whether the field was given in a form that cannot be read.
    #[must_use]
    pub const fn is_unreadable(&self) -> bool {
        match self {
            Self::Unreadable => true,
            Self::Absent | Self::Null | Self::Given(_) => false,
        }
    }
}

impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Self::Given)
    }
}
