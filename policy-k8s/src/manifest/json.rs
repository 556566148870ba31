//! JSON text as the events of the YAML parser. JSON is nearly YAML, but not quite: escapes of characters beyond the
//! basic plane come in pairs in JSON and are an error in YAML, and JSON may be indented with tabs.

use alloc::borrow::Cow;

use netpol_core::model::Position;
use saphyr_parser::{Event, ScalarStyle};

/// The events of one or more JSON values after another. Whatever is not JSON ends the stream with `None` inside: the
/// text is YAML then, if it is anything.
pub(super) struct JsonEvents<'t> {
    text: &'t str,
    at: usize,
    line: u32,
    column: u32,
    open: Vec<Collection>,
    expect: Expect,
}

/// A collection that is not closed yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Collection {
    Array,
    Object,
}

/// What may come next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    CommaOrEnd,
    DocumentStart,
    DocumentEnd,
}

/// Text that is not JSON.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NotJson;

impl<'t> JsonEvents<'t> {
    pub(super) const fn new(text: &'t str) -> Self {
        Self { text, at: 0, line: 1, column: 1, open: Vec::new(), expect: Expect::DocumentStart }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Moves over `bytes` bytes, counting lines and characters.
    fn advance(&mut self, bytes: usize) {
        for byte in self.rest().bytes().take(bytes) {
            match byte {
                b'\n' => {
                    self.line = self.line.saturating_add(1);
                    self.column = 1;
                }
                // The later bytes of a character.
                0x80..=0xbf => {}
                _ => self.column = self.column.saturating_add(1),
            }
        }
        self.at += bytes;
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.advance(rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len());
    }

    fn take(&mut self, token: char) -> bool {
        let is_next = self.rest().starts_with(token);
        if is_next {
            self.advance(token.len_utf8());
        }
        is_next
    }

    /// Returns the next event and its place; the stream end when only space is left.
    pub(super) fn next_event(&mut self) -> Result<(Event<'t>, Position), NotJson> {
        self.skip_space();
        if self.expect == Expect::CommaOrEnd && self.take(',') {
            self.skip_space();
            self.expect = match self.open.last() {
                Some(Collection::Array) => Expect::Value,
                Some(Collection::Object) => Expect::Key,
                None => return Err(NotJson),
            };
        }
        let position = Position { line: self.line, column: self.column };
        let event = match self.expect {
            Expect::DocumentStart if self.rest().is_empty() => Event::StreamEnd,
            Expect::DocumentStart => {
                self.expect = Expect::Value;
                Event::DocumentStart(false)
            }
            Expect::DocumentEnd => {
                self.expect = Expect::DocumentStart;
                Event::DocumentEnd
            }
            Expect::ValueOrEnd | Expect::CommaOrEnd if self.rest().starts_with(']') => {
                self.close(Collection::Array)?
            }
            Expect::KeyOrEnd | Expect::CommaOrEnd if self.rest().starts_with('}') => {
                self.close(Collection::Object)?
            }
            Expect::Key | Expect::KeyOrEnd => {
                let key = self.string()?;
                self.skip_space();
                if !self.take(':') {
                    return Err(NotJson);
                }
                self.expect = Expect::Value;
                Event::Scalar(key, ScalarStyle::DoubleQuoted, 0, None)
            }
            Expect::Value | Expect::ValueOrEnd => self.value()?,
            Expect::CommaOrEnd => return Err(NotJson),
        };
        Ok((event, position))
    }

    fn close(&mut self, collection: Collection) -> Result<Event<'t>, NotJson> {
        if self.open.pop() != Some(collection) {
            return Err(NotJson);
        }
        self.advance(1);
        self.value_ended();
        Ok(match collection {
            Collection::Array => Event::SequenceEnd,
            Collection::Object => Event::MappingEnd,
        })
    }

    const fn value_ended(&mut self) {
        self.expect = if self.open.is_empty() { Expect::DocumentEnd } else { Expect::CommaOrEnd };
    }

    fn value(&mut self) -> Result<Event<'t>, NotJson> {
        if self.take('{') {
            self.open.push(Collection::Object);
            self.expect = Expect::KeyOrEnd;
            return Ok(Event::MappingStart(0, None));
        }
        if self.take('[') {
            self.open.push(Collection::Array);
            self.expect = Expect::ValueOrEnd;
            return Ok(Event::SequenceStart(0, None));
        }
        if self.rest().starts_with('"') {
            let text = self.string()?;
            self.value_ended();
            return Ok(Event::Scalar(text, ScalarStyle::DoubleQuoted, 0, None));
        }
        let rest = self.rest();
        let end = rest
            .find(|next: char| !next.is_ascii_alphanumeric() && !matches!(next, '-' | '+' | '.'));
        let word = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        let digits = word.strip_prefix('-').unwrap_or(word);
        // Whether a number is well formed is decided where scalars are typed; nothing else starts with a digit.
        if !matches!(word, "true" | "false" | "null")
            && !digits.starts_with(|first: char| first.is_ascii_digit())
        {
            return Err(NotJson);
        }
        self.advance(word.len());
        self.value_ended();
        Ok(Event::Scalar(Cow::Borrowed(word), ScalarStyle::Plain, 0, None))
    }

    fn string(&mut self) -> Result<Cow<'t, str>, NotJson> {
        if !self.take('"') {
            return Err(NotJson);
        }
        let mut text = String::new();
        loop {
            let rest = self.rest();
            let end = rest
                .find(|next: char| next == '"' || next == '\\' || next.is_ascii_control())
                .ok_or(NotJson)?;
            let piece = rest.get(..end).ok_or(NotJson)?;
            self.advance(end);
            if self.take('"') {
                return Ok(if text.is_empty() {
                    Cow::Borrowed(piece)
                } else {
                    Cow::Owned(text + piece)
                });
            }
            if !self.take('\\') {
                return Err(NotJson);
            }
            text.push_str(piece);
            text.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, NotJson> {
        let character = self.rest().chars().next().ok_or(NotJson)?;
        self.advance(character.len_utf8());
        Ok(match character {
            '"' | '\\' | '/' => character,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let unit = self.code_unit()?;
                if !(0xd800..0xdc00).contains(&unit) {
                    return char::from_u32(unit).ok_or(NotJson);
                }
                if !(self.take('\\') && self.take('u')) {
                    return Err(NotJson);
                }
                let low = self
                    .code_unit()?
                    .checked_sub(0xdc00)
                    .filter(|low| *low < 0x400)
                    .ok_or(NotJson)?;
                char::from_u32(0x10000 + ((unit - 0xd800) << 10) + low).ok_or(NotJson)?
            }
            _ => return Err(NotJson),
        })
    }

    fn code_unit(&mut self) -> Result<u32, NotJson> {
        let digits = self
            .rest()
            .get(..4)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or(NotJson)?;
        self.advance(4);
        Ok(unit)
    }
}

/// Returns whether the whole text is JSON, without building anything from it.
pub(super) fn is_json(text: &str) -> bool {
    let mut events = JsonEvents::new(text);
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
        return false;
    }
    loop {
        match events.next_event() {
            Ok((Event::StreamEnd, _)) => return true,
            Ok(_) => {}
            Err(NotJson) => return false,
        }
    }
}
