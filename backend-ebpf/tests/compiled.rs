//! The compiled programs are what the sources compile to, bit by bit.

use std::fs;
use std::path::Path;
use std::process::Command;

use netpol_conformance::netlab::did_not_run;

#[test]
fn the_compiled_programs_are_what_the_sources_compile_to() {
    for tool in ["clang-14", "llvm-objcopy-14"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return did_not_run("compiling the kernel programs", &format!("no `{tool}`"));
        }
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bpf");
    // Compiled somewhere else, so that a path in the output would show.
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bpf");
    fs::create_dir_all(&copy).unwrap();
    let mut programs = Vec::new();
    for entry in fs::read_dir(&sources).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        if path.extension().is_some_and(|extension| extension == "bin") {
            programs.push(name);
        } else {
            fs::copy(&path, copy.join(name)).unwrap();
        }
    }
    let output = Command::new(copy.join("build")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(programs.len(), 5);
    for program in programs {
        let same =
            fs::read(sources.join(&program)).unwrap() == fs::read(copy.join(&program)).unwrap();
        assert!(
            same,
            "{} is not what its source compiles to: run src/bpf/build",
            program.display()
        );
    }
}
