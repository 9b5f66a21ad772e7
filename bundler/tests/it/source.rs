//! Charts that real helm accepts, and images out of what skopeo and a real Docker engine write.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use bundler::chart::Chart;

/// Runs a program that must succeed, and returns what it prints.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| unreachable!("{program} must be on PATH: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Paths and content of a packed chart; of `Chart.yaml` and `Chart.lock`, which helm writes anew, the path only.
fn packed_files(tgz: &[u8]) -> BTreeSet<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(tgz));
    let mut files = BTreeSet::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::copy(&mut entry, &mut content).expect("content");
        if path.ends_with("/Chart.yaml") || path.ends_with("/Chart.lock") {
            content.clear();
        }
        assert!(files.insert((path.clone(), content)), "{path} twice");
    }
    files
}

/// A chart with whatever helm treats in a way of its own; in a directory that has another name than the chart.
fn chart_directory(above: &Path) -> std::path::PathBuf {
    run("helm", &["create", text(&above.join("hello"))]);
    run("helm", &["create", text(&above.join("packed"))]);
    run("helm", &["create", text(&above.join("plain"))]);
    let chart = above.join("directory");
    fs::rename(above.join("hello"), &chart).expect("renamed");
    run("helm", &["package", text(&above.join("packed")), "--destination", text(&chart.join("charts"))]);
    fs::rename(above.join("plain"), chart.join("charts/another-name")).expect("moved");
    let write = |path: &str, content: &str| {
        let path = chart.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    };
    let metadata = fs::read_to_string(chart.join("Chart.yaml")).expect("Chart.yaml");
    let dependencies =
        "dependencies:\n- {name: plain, version: 0.1.0}\n- {name: packed, version: 0.1.0, alias: p}\n";
    write("Chart.yaml", &format!("# kept\n{metadata}{dependencies}annotations: {{example.org/a: 'b'}}\n"));
    write("Chart.lock", "dependencies: []\ndigest: sha256:00\ngenerated: \"2026-01-01T00:00:00Z\"\n");
    write("values.schema.json", "{}");
    write("crds/a.yaml", "");
    write("templates/.hidden", "");
    write("templates/sub/.hidden", "");
    write("charts/_draft/x", "");
    write("charts/packed-0.1.0.tgz.prov", "provenance");
    write("files/\u{fc}mlaut \u{1f680}.txt", "\u{feff}with a byte order mark");
    write(&format!("files/{}/{}", "d".repeat(90), "f".repeat(120)), "a long path");
    write("ignored/a", "");
    write("a.bak", "");
    write("b/a.bak", "");
    write("b/[x]", "");
    write("rooted", "");
    write("b/rooted", "");
    write(".helmignore", "# comment\n*.bak\nignored/\n/rooted\nb/\\[?\\]\n");
    fs::create_dir(above.join("shared")).expect("made");
    fs::write(above.join("shared/s.yaml"), "shared").expect("written");
    std::os::unix::fs::symlink("../shared", chart.join("linked")).expect("a link");
    std::os::unix::fs::symlink("../shared/s.yaml", chart.join("linked.yaml")).expect("a link");
    chart
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_chart_directory_is_packed_as_helm_packs_it() {
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = chart_directory(temporary.path());
    let ours = Chart::from_dir(&directory).expect("a chart");
    assert_eq!(Chart::from_dir(&directory).expect("a chart"), ours);

    run("helm", &["package", text(&directory), "--destination", text(temporary.path())]);
    let by_helm = fs::read(temporary.path().join("hello-0.1.0.tgz")).expect("what helm packed");
    assert_eq!(packed_files(&ours.content), packed_files(&by_helm));

    let file = temporary.path().join("ours.tgz");
    fs::write(&file, &ours.content).expect("written");
    assert!(run("helm", &["show", "chart", text(&file)]).contains("name: hello"));
    let rendered = |chart: &Path| run("helm", &["template", "x", text(chart)]);
    let from_tgz = rendered(&file);
    assert!(from_tgz.contains("image:"), "{from_tgz}");
    assert_eq!(from_tgz, rendered(&directory));

    let fetched = Chart::from_bytes("hello-0.1.0.tgz", by_helm.clone()).expect("a packed chart");
    assert_eq!(fetched.content, by_helm);
    let json = |chart: &Chart| serde_json::from_slice::<serde_json::Value>(&chart.config).expect("JSON");
    assert_eq!(json(&fetched), json(&ours));
    assert_eq!(json(&ours)["dependencies"][1]["alias"], "p");
}
