//! What the kernel tells of changes to nftables, to whoever listens.

use std::io;

use super::batch::Failure;
use super::message::{INET, Kind, NFTABLES, messages};
use super::socket::Socket;
use crate::script::TABLE;

/// `NFNLGRP_NFTABLES`.
const GROUP: i32 = 7;
/// `NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = 15;
/// Room for what was not read yet, in bytes: some thousand changes of others.
const ROOM: i32 = 4 << 20;

/// Hears what others than `writer` change in the namespace.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
}

/// What was heard.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Heard {
    /// Somebody else changed our table, or may have.
    pub(crate) ours: bool,
    /// The last generation that somebody else made, if anybody did: everything until there was heard.
    pub(crate) generation: Option<u32>,
}

impl Listener {
    /// Listens from now on.
    pub(crate) fn open(writer: &Socket) -> io::Result<Self> {
        let socket = Socket::open()?;
        // The kernel sends what we write to all who listen; ours is sorted out before it is queued.
        socket.ignore_port(writer.port()?)?;
        socket.make_room(ROOM);
        socket.join(GROUP)?;
        Ok(Self { socket })
    }

    /// Takes in what was told since the last time. Does not wait.
    pub(crate) fn hear(&self) -> Result<Heard, Failure> {
        let mut heard = Heard::default();
        loop {
            match self.socket.receive_now() {
                Ok(None) => return Ok(heard),
                Ok(Some(datagram)) => {
                    for message in messages(&datagram) {
                        let attributes = message.attributes();
                        if message.number == Kind::of(NEW_GENERATION) {
                            heard.generation = attributes.number(1).or(heard.generation);
                        } else if message.number >> 8 == NFTABLES
                            && message.body.first() == Some(&INET)
                            && attributes.text(1) == Some(TABLE)
                        {
                            heard.ours = true;
                        }
                    }
                }
                // More was told than there was room for.
                Err(Failure::Outdated) => heard.ours = true,
                Err(failure) => return Err(failure),
            }
        }
    }
}
