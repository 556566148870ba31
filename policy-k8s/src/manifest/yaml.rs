//! YAML as it is written: block style, quotes only where a reader could see something else than a string.

use core::fmt::{self, Write as _};

use super::scalar::ScalarKind;

#[derive(Clone, Debug)]
pub(super) enum Yaml {
    Null,
    Boolean(bool),
    Number(u32),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Yaml {
    pub(super) fn text(text: impl fmt::Display) -> Self {
        Self::Text(text.to_string())
    }

    pub(super) fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// A mapping of the entries that are there.
    pub(super) fn map<const N: usize>(entries: [(&str, Option<Self>); N]) -> Self {
        let entries = entries.into_iter();
        Self::Map(entries.filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
    }

    fn is_scalar(&self) -> bool {
        match self {
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
            Self::Null | Self::Boolean(_) | Self::Number(_) | Self::Text(_) => true,
        }
    }

    /// Writes the value at the cursor; lines after the first are indented.
    fn write(&self, out: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Boolean(value) => write!(out, "{value}"),
            Self::Number(value) => write!(out, "{value}"),
            Self::Text(text) => write_text(out, text),
            Self::List(items) if items.is_empty() => out.write_str("[]"),
            Self::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    new_line(out, index, indent)?;
                    out.write_str("- ")?;
                    item.write(out, indent + 2)?;
                }
                Ok(())
            }
            Self::Map(entries) if entries.is_empty() => out.write_str("{}"),
            Self::Map(entries) => {
                for (index, (key, value)) in entries.iter().enumerate() {
                    new_line(out, index, indent)?;
                    write_text(out, key)?;
                    out.write_char(':')?;
                    if value.is_scalar() {
                        out.write_char(' ')?;
                        value.write(out, 0)?;
                    } else {
                        write!(out, "\n{:width$}", "", width = indent + 2)?;
                        value.write(out, indent + 2)?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Yaml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

fn new_line(out: &mut fmt::Formatter<'_>, index: usize, indent: usize) -> fmt::Result {
    if index == 0 { Ok(()) } else { write!(out, "\n{:indent$}", "") }
}

fn write_text(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    let starts_plain = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_plain && text.bytes().all(plain) && ScalarKind::of_plain(text) == ScalarKind::Text {
        return out.write_str(text);
    }
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            _ if character.is_control() => write!(out, "\\U{:08x}", u32::from(character))?,
            _ => out.write_char(character)?,
        }
    }
    out.write_char('"')
}
