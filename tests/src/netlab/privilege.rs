//! Whether a lab can run here, and the way in for a process without privileges.

use core::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::namespace::on_own_thread;
use super::{rtnetlink, sys};

/// By which right this process can hold a lab.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Privilege {
    /// It is root on this machine, or has the capabilities of it.
    Root,
    /// It is root in a user namespace of its own.
    UserNamespace,
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::UserNamespace => "root in a user namespace",
        })
    }
}

/// Why no lab can run here.
#[derive(Debug, thiserror::Error)]
#[error("no lab can run here: {what}: {why}")]
#[non_exhaustive]
pub struct Unavailable {
    /// What is missing.
    pub what: &'static str,
    /// Why, and what would help.
    pub why: String,
}

/// Tells whether a lab can run here.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a name for two questions; it has no values")]
pub enum Availability {}

impl Availability {
    /// Returns by which right this process, as it is, can hold a lab. Tries the real thing on a namespace that is gone
    /// when this returns.
    ///
    /// # Errors
    /// Names what is missing. A process without privileges may still get them from [`Self::enter`] or
    /// [`Self::rerun`].
    pub fn probe() -> Result<Privilege, Unavailable> {
        let unavailable = |what, error: io::Error, help: &str| Unavailable {
            what,
            why: format!("{error}{help}"),
        };
        on_own_thread(|| {
            let made = sys::unshare_network().map_err(|error| {
                unavailable(
                    "network namespaces",
                    error,
                    " (needs root, or a user namespace: `unshare --user --net`)",
                )
            });
            Ok(made.and_then(|()| {
                try_namespace().map_err(|(what, error)| unavailable(what, error, ""))
            }))
        })
        .map_err(|error| unavailable("a thread", error, ""))??;
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let owns_all_users = map.split_whitespace().eq(["0", "0", "4294967295"]);
        Ok(if owns_all_users { Privilege::Root } else { Privilege::UserNamespace })
    }

    /// As [`Self::probe`], and where privileges are missing gives this process a user namespace in which it is root.
    /// The kernel allows that only while the process has a single thread: call it first thing in `main`.
    ///
    /// # Errors
    /// Names what is missing; the process is then as it was.
    pub fn enter() -> Result<Privilege, Unavailable> {
        if let Ok(privilege) = Self::probe() {
            return Ok(privilege);
        }
        become_root().map_err(|error| Unavailable {
            what: "a user namespace",
            why: format!(
                "{error} (the kernel or a security module may forbid them; run as root instead)"
            ),
        })?;
        Self::probe()
    }

    /// Runs this program again as root of a new user namespace: for processes that have several threads, such as
    /// tests. `start` adds arguments and starts the command. The child sees `NETPOL_LAB_RERUN=1` and cannot do so again.
    ///
    /// # Errors
    /// If the kernel allows no user namespaces, or the program is itself such a child.
    pub fn rerun<T>(start: impl FnOnce(&mut Command) -> io::Result<T>) -> Result<T, Unavailable> {
        const MARK: &str = "NETPOL_LAB_RERUN";
        let unavailable = |why| Unavailable { what: "a user namespace", why };
        if std::env::var_os(MARK).is_some() {
            return Err(unavailable("already tried".to_owned()));
        }
        let mut command = Command::new("/proc/self/exe");
        sys::before_exec(command.env(MARK, "1"), become_root);
        start(&mut command).map_err(|error| unavailable(error.to_string()))
    }
}

/// Gives the calling thread, and the processes it starts, a BPF file system of their own on a directory, which is made
/// if it is not there. Only for threads that end with their work.
///
/// # Errors
/// If the kernel refuses: it takes root.
pub fn bpf_file_system(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    sys::mount_bpf(directory)
}

/// Gives this process of one thread a user namespace in which it is root.
fn become_root() -> io::Result<()> {
    let (user, group) = sys::identity();
    sys::unshare_user()?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Does in a fresh namespace, which the calling thread is in, what a lab does.
fn try_namespace() -> Result<(), (&'static str, io::Error)> {
    super::namespace::set("ipv4/ip_forward", "1")
        .map_err(|error| ("writable network settings", error))?;
    super::namespace::set("ipv6/conf/all/forwarding", "1").map_err(|error| ("IPv6", error))?;
    rtnetlink::try_veth().map_err(|error| ("veth links", error))
}
