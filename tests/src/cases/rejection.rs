//! One line of a case's `rejects`: an error that reading must report.

use core::fmt;

use netpol_k8s::manifest::ReadError;

/// An error by its number, object, field and, if it matters, line.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Rejection {
    /// Number of the rule; `-` for an error that has none.
    pub id: String,
    /// `namespace/name` (or `name`) of the object; `-` if it has none that could be read.
    pub object: String,
    /// The field; `-` for the whole object.
    pub path: String,
    /// The line in the case file.
    pub line: Option<u32>,
}

impl Rejection {
    /// Reads `ID OBJECT PATH [line N]`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let (words, line) = match words.as_slice() {
            [words @ .., "line", line] => (words, Some(line.parse().ok()?)),
            words => (words, None),
        };
        let [id, object, path] = words else { return None };
        Some(Self {
            id: (*id).to_owned(),
            object: (*object).to_owned(),
            path: (*path).to_owned(),
            line,
        })
    }

    /// Returns the error as a case would list it, with its line.
    #[must_use]
    pub fn of(error: &ReadError) -> Self {
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let object = error.object.as_ref().map(|(_, object)| object.to_string());
        Self {
            id: dash(error.id().unwrap_or_default().to_owned()),
            object: dash(object.unwrap_or_default()),
            path: dash(error.path.replace(' ', "_")),
            line: Some(error.position.line),
        }
    }

    /// Returns whether an error is the expected one. Where no line is expected, any will do.
    #[must_use]
    pub fn holds(&self, error: &ReadError) -> bool {
        let found = Self::of(error);
        let line = self.line.or(found.line);
        Self { line, ..self.clone() } == found
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.id, self.object, self.path)?;
        self.line.map_or(Ok(()), |line| write!(f, " line {line}"))
    }
}
