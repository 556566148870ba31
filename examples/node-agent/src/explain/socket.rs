//! The local socket: one question, one answer, and only between processes of one user.
//!
//! A name that begins with `@` has no file: it lives in the network namespace, which the agent shares with its node, and
//! ends with the agent. Anybody there could take it or ask, so both sides look who the other is.

use core::time::Duration;
use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Question;
use crate::agent::Request;
use crate::cli::{ExplainArgs, Output};

/// The longest question.
const LONGEST: u64 = 4096;

/// How long a question may take to be asked, and how long to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize, Serialize)]
enum Answer {
    Explained(String),
    Refused(String),
}

/// Opens the socket; `None` if it has no name.
pub(crate) fn listen(name: &str) -> anyhow::Result<Option<UnixListener>> {
    if name.is_empty() {
        return Ok(None);
    }
    if !name.starts_with('@') && StdStream::connect(name).is_err() {
        // Of an agent that was killed: nobody answers there.
        let _ = std::fs::remove_file(name);
    }
    let listener = StdListener::bind_addr(&address(name)?)?;
    if !name.starts_with('@') {
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(name, owner_only)?;
    }
    listener.set_nonblocking(true)?;
    Ok(Some(UnixListener::from_std(listener)?))
}

fn address(name: &str) -> std::io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

pub(crate) async fn serve(listener: UnixListener, agent: mpsc::Sender<Request>) {
    let own = own_user();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let asker = stream.peer_cred().map(|peer| peer.uid());
        if !asker.as_ref().is_ok_and(|asker| *asker == 0 || Some(*asker) == own) {
            tracing::warn!(?asker, "somebody else asked for an explanation, and got none");
            continue;
        }
        let agent = agent.clone();
        tokio::spawn(async move {
            if let Err(error) =
                timeout(PATIENCE * 2, converse(stream, agent)).await.unwrap_or(Ok(()))
            {
                tracing::debug!(%error, "a question broke off");
            }
        });
    }
}

async fn converse(mut stream: UnixStream, agent: mpsc::Sender<Request>) -> anyhow::Result<()> {
    let mut line = String::new();
    let (asked, mut told) = stream.split();
    timeout(PATIENCE, BufReader::new(asked.take(LONGEST)).read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Question>(&line) {
        Ok(question) => {
            let (sender, receiver) = oneshot::channel();
            agent.send(Request::Explain(question, sender)).await?;
            receiver.await?
        }
        Err(error) => Err(error.to_string()),
    };
    let answer = match answer {
        Ok(text) => Answer::Explained(text),
        Err(why) => Answer::Refused(why),
    };
    told.write_all(serde_json::to_string(&answer)?.as_bytes()).await?;
    Ok(())
}

/// The user that this process runs as.
fn own_user() -> Option<u32> {
    use std::os::linux::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").ok().map(|own| own.st_uid())
}

/// Asks the running agent. Returns its answer.
pub(crate) fn ask(name: &str, args: &ExplainArgs) -> anyhow::Result<String> {
    let reach = || -> std::io::Result<StdStream> {
        let stream = StdStream::connect_addr(&address(name)?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let mut stream = reach().with_context(|| {
        format!("no agent answers at `{name}` in this network namespace; does it run on this node?")
    })?;
    let question = Question {
        flow: args.flow.clone(),
        namespace: args.namespace.clone(),
        is_json: args.output == Output::Json,
    };
    writeln!(stream, "{}", serde_json::to_string(&question)?)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("the agent does not answer")?;
    match serde_json::from_str(&text).context("what answers is no agent")? {
        Answer::Explained(text) => Ok(text),
        Answer::Refused(why) => bail!(why),
    }
}
