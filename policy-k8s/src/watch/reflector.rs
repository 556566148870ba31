//! One kind, followed for ever.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::time::Instant;

use kube::Client;
use netpol_core::model::ObjectRef;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::backoff::{Backoff, jittered};
use super::failure::Failure;
use super::request::{Lines, escaped, get, whole};
use super::served::is_served;
use super::source::Source;
use super::strings::Strings;
use super::wire::{Line, Named, Page, Status};
use super::{Change, Event, Listing, Oddity, Options};
use crate::decode::Odd;

/// A watch that has lived so long, or brought anything, is progress.
const PROGRESS: Duration = Duration::from_millis(500);

/// The embedder has dropped the watch.
struct Gone;

/// What is given to one reflector.
pub(super) struct Following {
    pub(super) client: Client,
    pub(super) options: Arc<Options>,
    pub(super) sender: mpsc::Sender<Event>,
    /// Where it says how many objects there are.
    pub(super) count: Arc<AtomicUsize>,
}

/// Follows one kind.
pub(super) struct Reflector<S> {
    client: Client,
    options: Arc<Options>,
    sender: mpsc::Sender<Event>,
    /// What the embedder was told of.
    known: BTreeSet<ObjectRef>,
    count: Arc<AtomicUsize>,
    strings: Strings,
    backoff: Backoff,
    listing: Listing,
    /// A continued list expired: the next one is had in one piece.
    whole_list: bool,
    /// The embedder was told of a failure, and of no recovery since.
    is_failing: bool,
    source: PhantomData<fn() -> S>,
}

/// What came of an attempt that did not end because the embedder is gone.
type Attempt<T> = Result<Result<T, Failure>, Gone>;

impl<S: Source> Reflector<S> {
    pub(super) async fn run(following: Following) {
        let Following { client, options, sender, count } = following;
        let backoff = Backoff::new(options.first_pause, options.longest_pause);
        let mut reflector = Self {
            client,
            listing: options.listing,
            options,
            sender,
            known: BTreeSet::new(),
            count,
            strings: Strings::default(),
            backoff,
            whole_list: false,
            is_failing: false,
            source: PhantomData,
        };
        let Err(Gone) = reflector.follow_for_ever().await;
    }

    async fn follow_for_ever(&mut self) -> Result<core::convert::Infallible, Gone> {
        loop {
            if let Some((group_version, plural)) = S::OPTIONAL {
                self.wait_until_served(group_version, plural).await?;
            }
            match self.list().await? {
                Ok((version, lines)) => {
                    self.send(Event::Listed(S::KIND)).await?;
                    self.follow(version, lines).await?;
                }
                Err(failure) => self.failed(failure).await?,
            }
        }
    }

    /// Returns once the kind is served. Two clear answers in a row that it is not make an empty list of it: one may come
    /// from a server that is still starting.
    async fn wait_until_served(&mut self, group_version: &str, plural: &str) -> Result<(), Gone> {
        let mut noes = 0_u32;
        loop {
            match is_served(&self.client, &self.options, group_version, plural).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    noes = noes.saturating_add(1);
                    let pause =
                        if noes < 2 { self.options.first_pause } else { self.options.look_again };
                    if noes == 2 {
                        self.forget_all_but(&BTreeSet::new()).await?;
                        self.send(Event::Listed(S::KIND)).await?;
                        self.recovered().await?;
                    }
                    self.pause(jittered(pause)).await?;
                }
                Err(failure) => {
                    noes = 0;
                    self.failed(failure).await?;
                }
            }
        }
    }

    /// Lists everything and tells it. Returns the version to go on from, and the stream if it goes on by itself.
    async fn list(&mut self) -> Attempt<(String, Option<Lines>)> {
        if self.listing == Listing::Streaming {
            let listed = self.list_by_streaming().await?;
            match &listed {
                // A server that cannot says so in one of several ways; these are not it.
                Ok(_)
                | Err(
                    Failure::Unreachable(_)
                    | Failure::Expired
                    | Failure::CutOff
                    | Failure::Refused { code: 401 | 403 | 404 | 429 | 503 | 504, .. },
                ) => {}
                Err(failure) => {
                    tracing::info!(kind = %S::KIND, %failure, "no streaming lists; listing in pages");
                    self.listing = Listing::Pages;
                }
            }
            return Ok(listed.map(|(version, lines)| (version, Some(lines))));
        }
        Ok(self.list_by_pages().await?.map(|version| (version, None)))
    }

    async fn list_by_pages(&mut self) -> Attempt<String> {
        let mut seen = BTreeSet::new();
        let mut token = String::new();
        let limit =
            if self.whole_list { String::new() } else { format!("limit={}", self.options.page) };
        loop {
            let path = match token.as_str() {
                "" => format!("{}?{limit}", S::PATH),
                token => format!("{}?{limit}&continue={}", S::PATH, escaped(token)),
            };
            // A long list in one piece may take as long as all of its pages would.
            let patience = self.options.answer_timeout * if self.whole_list { 8 } else { 1 };
            let body = match get(&self.client, &path, patience).await {
                Ok(body) => whole(body, patience).await,
                Err(failure) => Err(failure),
            };
            let text = match body {
                Ok(text) => text,
                Err(failure) => {
                    self.whole_list = matches!(failure, Failure::Expired) && !token.is_empty();
                    return Ok(Err(failure));
                }
            };
            let page: Page<'_> = match serde_json::from_slice(&text) {
                Ok(page) => page,
                Err(error) => return Ok(Err(Failure::Malformed(error.into()))),
            };
            for item in page.items.unwrap_or_default() {
                if let Some(object) = self.put(item).await? {
                    seen.insert(object);
                }
            }
            match page.metadata.r#continue.filter(|token| !token.is_empty()) {
                Some(next) => token = next,
                None => {
                    self.whole_list = false;
                    self.forget_all_but(&seen).await?;
                    return Ok(Ok(page.metadata.resource_version));
                }
            }
        }
    }

    async fn list_by_streaming(&mut self) -> Attempt<(String, Lines)> {
        let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let mut lines = match self.open(query).await {
            Ok(lines) => lines,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut seen = BTreeSet::new();
        loop {
            let line = match timeout(self.options.answer_timeout, lines.next()).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => return Ok(Err(Failure::Ended)),
                Ok(Err(failure)) => return Ok(Err(failure)),
                Err(_) => return Ok(Err(Failure::Silent(self.options.answer_timeout))),
            };
            match self.event(&line).await? {
                Ok(Seen::Put(object, _)) => {
                    seen.extend(object);
                }
                Ok(Seen::Gone(object, _)) => {
                    seen.remove(&object);
                }
                Ok(Seen::Bookmark { version, ends_initial: true }) => {
                    self.forget_all_but(&seen).await?;
                    return Ok(Ok((version, lines)));
                }
                Ok(Seen::Bookmark { .. } | Seen::Other) => {}
                Err(failure) => return Ok(Err(failure)),
            }
        }
    }

    async fn open(&self, query: &str) -> Result<Lines, Failure> {
        let timeout = self.options.watch_timeout;
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}&{query}",
            S::PATH,
            timeout.as_secs().max(1)
        );
        let body = get(&self.client, &path, self.options.answer_timeout).await?;
        Ok(Lines::new(body, timeout + self.options.answer_timeout))
    }

    /// Watches from a version on, until that version is forgotten by the server.
    async fn follow(&mut self, mut version: String, first: Option<Lines>) -> Result<(), Gone> {
        let mut lines = first;
        loop {
            let watched = match lines.take() {
                Some(lines) => self.read(lines, &mut version).await?,
                None => match self.open(&format!("resourceVersion={}", escaped(&version))).await {
                    Ok(lines) => self.read(lines, &mut version).await?,
                    Err(failure) => Err(failure),
                },
            };
            match watched {
                Ok(()) => {}
                Err(failure) => {
                    let lists_again = matches!(failure, Failure::Expired) || failure.is_not_found();
                    self.failed(failure).await?;
                    if lists_again {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reads a watch to its end.
    async fn read(&mut self, mut lines: Lines, version: &mut String) -> Attempt<()> {
        let began = Instant::now();
        let mut has_progress = false;
        loop {
            let line = if has_progress {
                lines.next().await
            } else {
                match timeout(PROGRESS.saturating_sub(began.elapsed()), lines.next()).await {
                    Ok(line) => line,
                    // Quiet, and not refused: that is what a watch should be.
                    Err(_) => {
                        has_progress = true;
                        self.recovered().await?;
                        continue;
                    }
                }
            };
            let line = match line {
                Ok(Some(line)) => line,
                Ok(None) if has_progress => return Ok(Ok(())),
                Ok(None) => return Ok(Err(Failure::Ended)),
                Err(failure) => return Ok(Err(failure)),
            };
            match self.event(&line).await? {
                Ok(
                    Seen::Put(_, seen) | Seen::Gone(_, seen) | Seen::Bookmark { version: seen, .. },
                ) => {
                    if !seen.is_empty() {
                        *version = seen;
                    }
                    if !has_progress {
                        has_progress = true;
                        self.recovered().await?;
                    }
                }
                Ok(Seen::Other) => {}
                Err(failure) => return Ok(Err(failure)),
            }
        }
    }

    /// Takes one line of a watch.
    async fn event(&mut self, line: &[u8]) -> Attempt<Seen> {
        let malformed = |error: serde_json::Error| Failure::Malformed(error.into());
        let line: Line<'_> = match serde_json::from_slice(line) {
            Ok(line) => line,
            Err(error) => return Ok(Err(malformed(error))),
        };
        if line.kind == "ERROR" {
            let status: Status = serde_json::from_str(line.object.get()).unwrap_or_default();
            return Ok(Err(Failure::of_status(status.code, status)));
        }
        let named: Named = match serde_json::from_str(line.object.get()) {
            Ok(named) => named,
            Err(error) => return Ok(Err(malformed(error))),
        };
        let version = named.metadata.resource_version;
        let object = ObjectRef::new(&named.metadata.namespace, &named.metadata.name);
        Ok(Ok(match line.kind.as_str() {
            "ADDED" | "MODIFIED" => Seen::Put(self.put(line.object).await?, version),
            "DELETED" => {
                self.known.remove(&object);
                self.tell_count();
                self.change(S::delete(object.clone())).await?;
                Seen::Gone(object, version)
            }
            "BOOKMARK" => {
                let end = named.metadata.annotations.and_then(|all| all.initial_events_end);
                Seen::Bookmark { version, ends_initial: end.as_deref() == Some("true") }
            }
            _ => Seen::Other,
        }))
    }

    /// Tells of an object as it is. One that cannot be read keeps its last known state.
    async fn put(&mut self, raw: &RawValue) -> Result<Option<ObjectRef>, Gone> {
        let mut oddities = Vec::new();
        let read = S::read(raw, &mut oddities);
        let named = match &read {
            Ok((object, _)) => Some(object.clone()),
            Err(_) => serde_json::from_str::<Named>(raw.get())
                .ok()
                .map(|named| ObjectRef::new(&named.metadata.namespace, &named.metadata.name)),
        };
        let object = named.clone().unwrap_or_else(|| ObjectRef::cluster_scoped("(unnamed)"));
        if let Err(error) = &read {
            let effect = if self.known.contains(&object) {
                "its last known state stays in force"
            } else {
                "it is left out"
            };
            oddities.push(Odd { path: String::new(), problem: error.to_string(), effect });
        }
        for Odd { path, problem, effect } in oddities {
            let object = object.clone();
            self.send(Event::Odd(Oddity { kind: S::KIND, object, path, problem, effect })).await?;
        }
        if let Ok((mut object, mut change)) = read {
            object.namespace = self.strings.share(object.namespace);
            S::share(&mut change, &mut self.strings);
            self.known.insert(object);
            self.tell_count();
            self.change(change).await?;
        }
        Ok(named)
    }

    /// After a complete list: what was told of before and is not in it, is gone.
    async fn forget_all_but(&mut self, seen: &BTreeSet<ObjectRef>) -> Result<(), Gone> {
        let gone: Vec<ObjectRef> = self.known.difference(seen).cloned().collect();
        for object in gone {
            self.known.remove(&object);
            self.tell_count();
            self.change(S::delete(object)).await?;
        }
        Ok(())
    }

    fn tell_count(&self) {
        self.count.store(self.known.len(), Ordering::Relaxed);
    }

    async fn failed(&mut self, failure: Failure) -> Result<(), Gone> {
        self.is_failing = true;
        let pause = self.backoff.next();
        let failure = Arc::new(failure);
        self.send(Event::Failing { kind: S::KIND, failure, pause }).await?;
        self.pause(pause).await
    }

    async fn recovered(&mut self) -> Result<(), Gone> {
        self.backoff.reset();
        if core::mem::take(&mut self.is_failing) {
            self.send(Event::Recovered(S::KIND)).await?;
        }
        Ok(())
    }

    async fn pause(&self, pause: Duration) -> Result<(), Gone> {
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.sender.closed() => Err(Gone),
        }
    }

    async fn change(&self, change: Change) -> Result<(), Gone> {
        self.send(Event::Change { change, heard: Instant::now() }).await
    }

    async fn send(&self, event: Event) -> Result<(), Gone> {
        self.sender.send(event).await.map_err(|_| Gone)
    }
}

/// What a line of a watch was about.
enum Seen {
    Bookmark { version: String, ends_initial: bool },
    Gone(ObjectRef, String),
    Other,
    Put(Option<ObjectRef>, String),
}
