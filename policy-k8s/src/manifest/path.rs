//! The path of a field inside its object, built on the stack and written only when something is wrong there.

use core::fmt;

#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'p> {
    Root,
    Key(&'p Self, &'p str),
    Index(&'p Self, usize),
}

impl<'p> Path<'p> {
    pub(super) const fn key(&'p self, key: &'p str) -> Self {
        Path::Key(self, key)
    }

    pub(super) const fn index(&'p self, index: usize) -> Self {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(parent, key) => {
                write!(f, "{parent}")?;
                if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                    let dot = if matches!(parent, Path::Root) { "" } else { "." };
                    write!(f, "{dot}{key}")
                } else {
                    write!(f, "[{key}]")
                }
            }
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
