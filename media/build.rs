//! Hashes the crate's sources into `BUILD`, so that `mautrix_sfu/media.py` can refuse a stale binary.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let mut files = vec![PathBuf::from("Cargo.toml"), PathBuf::from("build.rs")];
    collect(&root, Path::new("src"), &mut files);
    files.sort_by_key(|file| file.to_string_lossy().into_owned());

    let mut hasher = crc32fast::Hasher::new();
    let mut length = 0;
    for file in files {
        let content = fs::read(root.join(&file)).expect("a source can be read");
        hasher.update(file.to_string_lossy().as_bytes());
        hasher.update(&[0]);
        hasher.update(&content);
        length += content.len();
    }
    println!("cargo::rustc-env=MEDIA_BUILD={:08x}-{length}", hasher.finalize());
    for watched in ["src", "Cargo.toml", "build.rs"] {
        println!("cargo::rerun-if-changed={watched}");
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(folder)).expect("a source folder can be listed") {
        let entry = entry.expect("a source folder can be listed");
        let path = folder.join(entry.file_name());
        if entry.file_type().expect("an entry has a type").is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
