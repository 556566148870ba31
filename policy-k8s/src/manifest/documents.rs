//! The documents of a text: JSON or YAML, one tree at a time.

use alloc::rc::Rc;
use core::cell::Cell;
use core::str::Chars;

use netpol_core::model::Position;
use saphyr_parser::{BufferedInput, Event, Marker, Parser, ScanError, StrInput};

use super::Limits;
use super::error::Problem;
use super::json::{JsonEvents, NotJson, is_json};
use super::tree::{Builder, Node};

/// One document of a stream.
#[derive(Debug)]
pub(super) struct Document<'t> {
    /// From 1.
    pub(super) number: u32,
    pub(super) root: Node<'t>,
    /// Whether some mapping has a key twice; the place is looked up when the object is known.
    pub(super) has_duplicates: bool,
}

/// What keeps the rest of a stream from being read.
#[derive(Debug)]
pub(super) struct TreeError {
    pub(super) document: u32,
    pub(super) position: Position,
    pub(super) problem: Problem,
}

/// The documents of a text, one tree at a time, so that memory follows the largest document and not the file.
pub(super) struct Documents<'t> {
    events: Events<'t>,
    limits: Limits,
    number: u32,
    ended: bool,
}

/// Where the events of a text come from.
enum Events<'t> {
    Json(JsonEvents<'t>),
    Yaml(Parser<'t, StrInput<'t>>),
    Metered(Parser<'t, BufferedInput<Metered<'t>>>, Budget),
}

/// How many characters the parser may still take before it has to come out with an event.
type Budget = Rc<Cell<usize>>;

/// The characters of a large text. Inside brackets the parser keeps every token until it knows that the collection is no
/// key, hundreds of bytes for each; the end of the budget looks like the end of the text to it.
struct Metered<'t> {
    characters: Chars<'t>,
    budget: Budget,
}

impl Iterator for Metered<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let left = self.budget.get().checked_sub(1)?;
        let next = self.characters.next()?;
        self.budget.set(left);
        Some(next)
    }
}

impl<'t> Documents<'t> {
    pub(super) fn new(text: &'t str, limits: Limits) -> Self {
        // A byte order mark is no part of the first key.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let events = if is_json(text) {
            Events::Json(JsonEvents::new(text))
        } else if text.len() <= limits.flow_characters {
            Events::Yaml(Parser::new_from_str(text))
        } else {
            let budget = Budget::new(Cell::new(limits.flow_characters));
            let input = Metered { characters: text.chars(), budget: budget.clone() };
            Events::Metered(Parser::new_from_iter(input), budget)
        };
        Self { events, limits, number: 0, ended: false }
    }

    fn next_event(&mut self) -> Result<(Event<'t>, Position), TreeError> {
        let limit = self.limits.flow_characters;
        let next = match &mut self.events {
            Events::Yaml(parser) => parser.next_event(),
            Events::Metered(parser, budget) => {
                let next = parser.next_event();
                if budget.replace(limit) == 0 {
                    let position = next
                        .and_then(Result::ok)
                        .map_or_else(Position::default, |(_, span)| position(span.start));
                    let problem = Problem::FlowTooLarge { limit };
                    return Err(TreeError { document: self.number, position, problem });
                }
                next
            }
            Events::Json(events) => {
                return events.next_event().map_err(|NotJson| {
                    let problem = Problem::Syntax("neither JSON nor YAML".to_owned());
                    TreeError { document: self.number, position: Position::default(), problem }
                });
            }
        };
        match next {
            Some(Ok((event, span))) => Ok((event, position(span.start))),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Position::default())),
        }
    }

    fn syntax(&self, error: &ScanError) -> TreeError {
        let problem = Problem::Syntax(error.info().to_owned());
        TreeError { document: self.number.max(1), position: position(*error.marker()), problem }
    }

    fn read_document(&mut self) -> Result<Document<'t>, TreeError> {
        let mut builder = Builder::new(self.limits);
        loop {
            let (event, position) = self.next_event()?;
            let done = builder.event(event, position);
            let done =
                done.map_err(|problem| TreeError { document: self.number, position, problem })?;
            if let Some(root) = done {
                return Ok(Document {
                    number: self.number,
                    root,
                    has_duplicates: builder.has_duplicates(),
                });
            }
        }
    }
}

impl<'t> Iterator for Documents<'t> {
    type Item = Result<Document<'t>, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let result = match self.next_event() {
                Ok((Event::DocumentStart(_), _)) => {
                    self.number = self.number.saturating_add(1);
                    self.read_document()
                }
                Ok((Event::StreamEnd, _)) => break,
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            self.ended = result.is_err();
            return Some(result);
        }
        self.ended = true;
        None
    }
}

fn position(marker: Marker) -> Position {
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Position { line: count(marker.line()), column: count(marker.col()).saturating_add(1) }
}
