//! Why a ruleset is not in the kernel.

use std::io;

use netpol_core::backend::SyncError;

use super::btf::KernelError;

/// Why an image and its program could not be loaded. Nothing of it is left in the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The running kernel cannot run the program.
    #[error("the kernel cannot run the program")]
    Kernel(#[from] KernelError),
    /// A map was refused.
    #[error("the kernel refused map {map} of {rows} rows")]
    Map {
        /// Its name.
        map: &'static str,
        /// How many rows it was to hold.
        rows: usize,
        /// Why.
        source: io::Error,
    },
    /// A program was refused.
    #[error("the kernel refused program {name}; the verifier's last words: `{verifier}`")]
    Program {
        /// Its name.
        name: &'static str,
        /// The end of what the verifier said.
        verifier: String,
        /// Why.
        source: io::Error,
    },
    /// The compiled program is not the one that this crate was built for.
    #[error("program {0} is damaged")]
    Damaged(&'static str),
}

impl LoadError {
    const fn cause(&self) -> Option<&io::Error> {
        match self {
            Self::Kernel(KernelError::Unreadable(source))
            | Self::Map { source, .. }
            | Self::Program { source, .. } => Some(source),
            Self::Kernel(KernelError::Damaged | KernelError::Lacks(_)) | Self::Damaged(_) => None,
        }
    }
}

impl From<LoadError> for SyncError {
    fn from(error: LoadError) -> Self {
        if error.cause().is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied) {
            return Self::Missing {
                what: "the privilege to load eBPF programs".into(),
                hint: "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".into(),
            };
        }
        match &error {
            LoadError::Kernel(lack) => Self::Missing {
                what: lack.to_string(),
                hint: "the netfilter front end needs Linux 6.4 with CONFIG_DEBUG_INFO_BTF and \
                       CONFIG_NETFILTER_BPF_LINK"
                    .into(),
            },
            LoadError::Program { verifier, source, .. }
                if verifier.is_empty() && source.raw_os_error() == Some(libc::EINVAL) =>
            {
                Self::Missing {
                    what: "loading eBPF programs for netfilter".into(),
                    hint: "the kernel needs Linux 6.4 with CONFIG_NETFILTER_BPF_LINK".into(),
                }
            }
            LoadError::Map { map, rows, source } if source.raw_os_error() == Some(libc::ENOSYS) => {
                Self::Missing {
                    what: format!("bpf(2), asked for map {map} of {rows} rows"),
                    hint: "the kernel needs CONFIG_BPF_SYSCALL".into(),
                }
            }
            LoadError::Map { map, rows, .. } => {
                Self::refused(format!("map {map} of {rows} rows"), error)
            }
            LoadError::Program { name, .. } | LoadError::Damaged(name) => {
                Self::refused(format!("program {name}"), error)
            }
        }
    }
}
