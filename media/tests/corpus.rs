//! A short run of what `fuzz/` fuzzes at length: the committed corpus, and some thousand damaged copies of it.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// Damaged copies of each target's corpus.
const DAMAGED: usize = 4000;

/// Runs a target over its corpus and over mixed, cut and flipped copies, the same in every run.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty(), "{name} has no corpus");
    corpus.iter().for_each(|input| target(input));
    let mut state = 1u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound.max(1)
    };
    for _ in 0..DAMAGED {
        let mut input = corpus[below(corpus.len())].clone();
        let other = &corpus[below(corpus.len())];
        input.truncate(below(input.len() + 1));
        input.extend_from_slice(&other[below(other.len() + 1)..]);
        for _ in 0..below(4) {
            let at = below(input.len());
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << below(8);
            }
        }
        target(&input);
    }
}

#[test]
fn stun_survives_its_corpus() {
    replay("stun", targets::stun);
}

#[test]
fn rtp_survives_its_corpus() {
    replay("rtp", targets::rtp);
}

#[test]
fn rtcp_survives_its_corpus() {
    replay("rtcp", targets::rtcp);
}

#[test]
fn red_survives_its_corpus() {
    replay("red", targets::red);
}

#[test]
fn vp8_survives_its_corpus() {
    replay("vp8", targets::vp8);
}

#[test]
fn vp9_survives_its_corpus() {
    replay("vp9", targets::vp9);
}

#[test]
fn h264_survives_its_corpus() {
    replay("h264", targets::h264);
}

#[test]
fn av1_survives_its_corpus() {
    replay("av1", targets::av1);
}

#[test]
fn dependency_descriptors_survive_their_corpus() {
    replay("dependency", targets::dependency);
}

#[test]
fn the_engine_survives_its_corpus() {
    replay("engine", targets::engine);
}
