//! What is shipped: one static file, and an image of nothing else.
//!
//! `NETPOL_STATIC_AGENT=$(examples/node-agent/build-static) cargo test -p netpol-agent --test image`
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use netpol_conformance::api_server::{ApiServer, Options};
use serde_json::json;

/// The static file, if it was built and is named.
fn shipped(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("NETPOL_STATIC_AGENT");
    if named.is_none() {
        eprintln!("DID NOT RUN: {test}: NETPOL_STATIC_AGENT does not name what build-static built");
    }
    named.map(PathBuf::from)
}

/// A folder with the agent in it and nothing else, as the image is.
fn alone(name: &str, agent: &Path) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(agent, folder.join("netpol-agent")).unwrap();
    folder
}

#[track_caller]
fn told(output: Output) -> String {
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{failed}");
    String::from_utf8(output.stdout).unwrap()
}

/// The types of an ELF file's program headers.
fn program_headers(file: &[u8]) -> Vec<u32> {
    assert_eq!(file[..5], [0x7f, b'E', b'L', b'F', 2], "64 bits");
    let word = |at: usize| usize::from(u16::from_ne_bytes(file[at..at + 2].try_into().unwrap()));
    let first = u64::from_ne_bytes(file[32..40].try_into().unwrap());
    let (first, size, count) = (usize::try_from(first).unwrap(), word(54), word(56));
    let kind = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    (0..count).map(|number| kind(first + number * size)).collect()
}

#[test]
fn the_agent_is_one_file_that_needs_no_loader_and_no_library() {
    const LOAD: u32 = 1;
    const INTERPRETER: u32 = 3;
    let Some(agent) = shipped("static file") else { return };
    let headers = program_headers(&fs::read(agent).unwrap());
    assert!(headers.contains(&LOAD) && !headers.contains(&INTERPRETER), "{headers:?}");
    // The one that cargo builds here for the other tests does need a loader: this test can tell.
    let ordinary = program_headers(&fs::read(env!("CARGO_BIN_EXE_netpol-agent")).unwrap());
    assert!(ordinary.contains(&INTERPRETER), "{ordinary:?}");
}

#[test]
fn alone_in_its_root_it_starts_lists_and_says_what_it_would_enforce() {
    let Some(agent) = shipped("start in a root of its own") else { return };
    let root = alone("alone", &agent);
    let server = ApiServer::start(Options::default()).unwrap();
    server.put(&json!({ "kind": "Namespace", "metadata": { "name": "shop" } })).unwrap();
    let pod = json!({
        "kind": "Pod", "metadata": { "name": "api", "namespace": "shop" },
        "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.2" }] },
    });
    server.put(&pod).unwrap();
    let policy = json!({
        "kind": "NetworkPolicy", "metadata": { "name": "deny", "namespace": "shop" }, "spec": { "podSelector": {} },
    });
    server.put(&policy).unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": {
            "server": format!("http://{}", server.address()), "certificate-authority": "/ca.crt",
        } }],
        "users": [{ "name": "test", "user": {} }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
    });
    fs::write(root.join("config"), config.to_string()).unwrap();
    // No certificate of anybody's is in the image: a service account brings its own, and so must a kubeconfig.
    fs::write(root.join("ca.crt"), include_str!("image-ca.pem")).unwrap();
    let run = |arguments: &str| {
        let mut command = Command::new("chroot");
        command.arg(&root).arg("/netpol-agent").args(arguments.split(' ')).output()
    };
    let Ok(output) = run("--version") else {
        eprintln!("DID NOT RUN: there is no chroot");
        return;
    };
    if String::from_utf8_lossy(&output.stderr).contains("cannot change root directory") {
        eprintln!("DID NOT RUN: only root may change its root");
        return;
    }
    assert!(told(output).starts_with("netpol-agent "));
    assert!(told(run("--help").unwrap()).contains("--node-name"));
    let dry = "--node-name n1 --kubeconfig /config --backend nft --socket  --log-format json --dry-run --once";
    let output = run(dry).unwrap();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
    }
    let program = told(output);
    assert!(program.contains("table inet netpol") && program.contains("10.0.0.2"), "{program}");
}

/// What of the first stage can be looked at without the image it begins with: it does what the gate does.
#[test]
fn the_first_stage_builds_with_the_script_that_the_gate_runs() {
    let text = include_str!("../Dockerfile").replace("\\\n", "");
    let stages: Vec<&str> = text.split("\nFROM ").collect();
    assert_eq!(stages.len(), 3, "a comment and two stages");
    let (first, last) = (stages[1], stages[2]);
    let target = "rustup target add \"$(uname -m)-unknown-linux-musl\"";
    let built = "$(examples/node-agent/build-static --release)";
    for part in ["rust:1-", " AS build\n", "musl-tools", target, "COPY . .\n", built] {
        assert!(first.contains(part), "{part}\n{first}");
    }
    assert!(last.contains("COPY --from=build /netpol-agent /netpol-agent"), "{last}");
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let gate = fs::read_to_string(root.join("tests/run")).unwrap();
    assert!(
        gate.contains("=$(examples/node-agent/build-static)") && gate.contains(target),
        "{gate}"
    );
    let script = fs::metadata(root.join("examples/node-agent/build-static")).unwrap();
    assert_eq!(script.permissions().mode() & 0o111, 0o111);
    // What is built here before is not sent along.
    let ignored = fs::read_to_string(root.join(".dockerignore")).unwrap();
    assert!(ignored.lines().any(|line| line == "target"), "{ignored}");
}

/// The last stage of the `Dockerfile`, with the file that was built already for the stage before it, which needs an image
/// from a registry.
#[test]
fn the_image_is_built_from_the_dockerfile_and_starts() {
    let Some(agent) = shipped("image") else { return };
    let folder = alone("image", &agent);
    let store = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("image-store");
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(store.join("root"));
        command.arg("--runroot").arg(store.join("run")).args(arguments).output()
    };
    if buildah(&["--version"]).is_err() {
        eprintln!("DID NOT RUN: there is no buildah");
        return;
    }
    let _ = fs::remove_dir_all(&store);
    let dockerfile = concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile");
    let path = folder.to_str().unwrap();
    let built = format!("build={path}");
    let arguments = ["bud", "--isolation", "chroot", "--build-context", &built, "-t", "agent"];
    told(buildah(&[&arguments[..], &["-f", dockerfile, path]].concat()).unwrap());
    let container = told(buildah(&["from", "--pull-never", "localhost/agent"]).unwrap());
    let container = container.trim();
    let mounted = told(buildah(&["mount", container]).unwrap());
    let names = fs::read_dir(mounted.trim()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["netpol-agent"], "nothing else is in the image");
    let file = fs::metadata(Path::new(mounted.trim()).join("netpol-agent")).unwrap();
    assert_eq!(file.permissions().mode() & 0o111, 0o111);
    let image = told(buildah(&["inspect", "--type", "image", "localhost/agent"]).unwrap());
    assert!(image.contains("\"Entrypoint\": [\n                \"/netpol-agent\"\n"), "{image}");
    let run = ["run", "--isolation", "chroot", container, "--", "/netpol-agent", "--version"];
    assert!(told(buildah(&run).unwrap()).starts_with("netpol-agent "));
    told(buildah(&["umount", container]).unwrap());
    told(buildah(&["rm", container]).unwrap());
    let _ = fs::remove_dir_all(&store);
}
