//! A document as a tree, for what surrounds the manifests: the head of a case file, and the steps of the upstream cases.
//!
//! The manifests themselves are read by `netpol-k8s`, which is on trial here and therefore not asked for its tree.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an event that is not named is out of place, whatever the parser adds"
)]

use core::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, StrInput};

/// A value of a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Yaml {
    /// Text, and whether it was written without quotes, so that it may be a number, a boolean or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Self>),
    Mapping(Vec<(String, Self)>),
}

impl Yaml {
    /// Reads the first document of a text.
    pub(crate) fn first_document(text: &str) -> Result<Self, YamlError> {
        let mut events = Parser::new_from_str(text);
        loop {
            match next(&mut events)? {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                event => return Self::value(event, &mut events),
            }
        }
    }

    /// Reads every document of a text.
    pub(crate) fn documents(text: &str) -> Result<Vec<Self>, YamlError> {
        let mut events = Parser::new_from_str(text);
        let mut documents = Vec::new();
        loop {
            match next(&mut events)? {
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                Event::StreamEnd => return Ok(documents),
                event => documents.push(Self::value(event, &mut events)?),
            }
        }
    }

    fn value<'t>(
        event: Event<'t>,
        events: &mut Parser<'t, StrInput<'t>>,
    ) -> Result<Self, YamlError> {
        match event {
            Event::Scalar(text, style, ..) => {
                Ok(Self::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match next(events)? {
                        Event::SequenceEnd => return Ok(Self::List(items)),
                        event => items.push(Self::value(event, events)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut entries = Vec::new();
                loop {
                    match next(events)? {
                        Event::MappingEnd => return Ok(Self::Mapping(entries)),
                        Event::Scalar(key, ..) => {
                            let event = next(events)?;
                            entries.push((key.into_owned(), Self::value(event, events)?));
                        }
                        event => return Err(YamlError::Unexpected(format!("{event:?}"))),
                    }
                }
            }
            event => Err(YamlError::Unexpected(format!("{event:?}"))),
        }
    }

    /// The value of a key.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        self.entries().iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The entries of a mapping; of anything else, none.
    pub(crate) fn entries(&self) -> &[(String, Self)] {
        match self {
            Self::Mapping(entries) => entries,
            Self::Scalar { .. } | Self::List(_) => &[],
        }
    }

    /// The items of a list; of anything else, none.
    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            Self::Scalar { .. } | Self::Mapping(_) => &[],
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar { text, .. } => Some(text),
            Self::List(_) | Self::Mapping(_) => None,
        }
    }

    /// The tree with every scalar rewritten.
    pub(crate) fn map_text<E>(&self, map: &impl Fn(&str) -> Result<String, E>) -> Result<Self, E> {
        Ok(match self {
            Self::Scalar { text, plain } => Self::Scalar { text: map(text)?, plain: *plain },
            Self::List(items) => {
                Self::List(items.iter().map(|item| item.map_text(map)).collect::<Result<_, E>>()?)
            }
            Self::Mapping(entries) => Self::Mapping(
                entries
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), value.map_text(map)?)))
                    .collect::<Result<_, E>>()?,
            ),
        })
    }
}

/// Writes flow style, which reads back as the same tree, and is JSON.
impl fmt::Display for Yaml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~") => {
                f.write_str("null")
            }
            Self::Scalar { text, plain: true } if is_number_or_word(text) => f.write_str(text),
            Self::Scalar { text, .. } => write!(f, "{text:?}"),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Mapping(entries) => {
                f.write_str("{")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key:?}: {value}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}

fn is_number_or_word(text: &str) -> bool {
    matches!(text, "null" | "true" | "false") || text.parse::<i64>().is_ok()
}

fn next<'t>(events: &mut Parser<'t, StrInput<'t>>) -> Result<Event<'t>, YamlError> {
    match events.next_event() {
        Some(Ok((event, _))) => Ok(event),
        Some(Err(error)) => Err(error.into()),
        None => Err(YamlError::Unexpected("the end".to_owned())),
    }
}

/// Why a text is no tree.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum YamlError {
    /// Not YAML.
    #[error("not valid YAML: {0}")]
    Syntax(String),
    /// YAML that these files do without.
    #[error("unexpected here: {0}")]
    Unexpected(String),
}

impl From<ScanError> for YamlError {
    fn from(error: ScanError) -> Self {
        Self::Syntax(error.to_string())
    }
}
