//! Finding and reading files.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path as FilePath, PathBuf};

use netpol_core::model::Position;

use super::admit::admit;
use super::collect::Collected;
use super::decode::Reader;
use super::documents::Documents;
use super::error::Problem;
use super::note::Remark;
use super::path::Path;

/// Folders nest no deeper than this; symbolic links could make them endless.
const MAX_FOLDER_DEPTH: usize = 64;

pub(super) fn read_path(reader: &mut Reader<'_>, collected: &mut Collected, path: &str) {
    if path == "-" {
        read_bytes(reader, collected, path, io::stdin().lock());
        return;
    }
    let file_path = FilePath::new(path);
    if !file_path.is_dir() {
        read_file(reader, collected, file_path);
        return;
    }
    let mut files = Vec::new();
    let mut visited = HashSet::new();
    walk(reader, file_path, 0, (&mut files, &mut visited));
    if files.is_empty() {
        begin_file(reader, path);
        reader.note(Position::default(), &Path::Root, Remark::EmptyFolder);
    }
    for file in files {
        read_file(reader, collected, &file);
    }
}

fn walk(
    reader: &mut Reader<'_>,
    folder: &FilePath,
    depth: usize,
    (files, visited): (&mut Vec<PathBuf>, &mut HashSet<PathBuf>),
) {
    let listed = fs::canonicalize(folder).and_then(|real| Ok((real, fs::read_dir(folder)?)));
    let (real, listed) = match listed {
        Ok(listed) => listed,
        Err(error) => return refuse(reader, folder, error),
    };
    if depth > MAX_FOLDER_DEPTH || !visited.insert(real) {
        return;
    }
    let mut entries = Vec::new();
    for entry in listed {
        match entry {
            Ok(entry) => entries.push(entry.path()),
            Err(error) => refuse(reader, folder, error),
        }
    }
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(reader, &path, depth + 1, (&mut *files, &mut *visited));
        } else if is_manifest(&path) {
            files.push(path);
        }
    }
}

fn is_manifest(path: &FilePath) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|known| known.eq_ignore_ascii_case(extension))
}

fn refuse(reader: &mut Reader<'_>, path: &FilePath, error: io::Error) {
    begin_file(reader, &path.to_string_lossy());
    reader.report(Position::default(), &Path::Root, error);
}

fn begin_file(reader: &mut Reader<'_>, name: &str) {
    reader.file = name.into();
    reader.document = 0;
    reader.object = None;
}

fn read_file(reader: &mut Reader<'_>, collected: &mut Collected, path: &FilePath) {
    match fs::File::open(path) {
        Ok(file) => read_bytes(reader, collected, &path.to_string_lossy(), file),
        Err(error) => refuse(reader, path, error),
    }
}

fn read_bytes(reader: &mut Reader<'_>, collected: &mut Collected, name: &str, input: impl Read) {
    begin_file(reader, name);
    let limit = reader.options.limits.file_bytes;
    let mut bytes = Vec::new();
    if let Err(error) = input.take(limit.saturating_add(1)).read_to_end(&mut bytes) {
        return reader.report(Position::default(), &Path::Root, error);
    }
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return reader.report(Position::default(), &Path::Root, Problem::TooLarge { limit });
    }
    match core::str::from_utf8(&bytes) {
        Ok(text) => read_text(reader, collected, name, text),
        Err(error) => {
            let byte = error.valid_up_to();
            reader.report(Position::default(), &Path::Root, Problem::NotUtf8 { byte });
        }
    }
}

pub(super) fn read_text(
    reader: &mut Reader<'_>,
    collected: &mut Collected,
    name: &str,
    text: &str,
) {
    begin_file(reader, name);
    let limit = reader.options.limits.file_bytes;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > limit {
        return reader.report(Position::default(), &Path::Root, Problem::TooLarge { limit });
    }
    for document in Documents::new(text, reader.options.limits) {
        if reader.is_full() {
            return;
        }
        reader.object = None;
        match document {
            Ok(document) => {
                reader.document = document.number;
                admit(reader, collected, &document);
            }
            Err(error) => {
                reader.document = error.document;
                reader.report(error.position, &Path::Root, error.problem);
            }
        }
    }
    reader.object = None;
}
