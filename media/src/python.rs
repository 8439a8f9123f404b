//! The Python extension `mautrix_sfu._media`: argument checks and conversions around [`MediaCore`], nothing else.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::engine::Event;
use crate::engine::plan::{Command, Kind, Line, Payload, Plan, Receive, Transmit};
use crate::io::{MediaCore, Notice, Stats, Unavailable};
use crate::route::layers::Size;
use crate::srtp::{Master, Profile};

type PayloadItem = (i64, String, i64, Option<i64>);
type ReceiveItem = (Vec<String>, Vec<(i64, Option<i64>)>);
type LayerItem = (String, i64, Option<i64>);
type SendItem = (i64, Option<i64>, i64, Option<i64>, String, Vec<LayerItem>, Option<i64>);
type LineItem = (String, String, Option<ReceiveItem>, Option<SendItem>);

const MASTER_KEY: usize = 16;
/// What a header extension can carry.
const MAX_RID: usize = 255;

impl From<Unavailable> for PyErr {
    fn from(_: Unavailable) -> Self {
        PyRuntimeError::new_err("the media core failed; its poll() says why")
    }
}

/// As Python's own sockets raise it: with errno and its words.
fn os_error(error: &std::io::Error) -> PyErr {
    let text = error.to_string();
    match (error.raw_os_error(), text.split_once(" (os error")) {
        (Some(code), Some((words, _))) => PyOSError::new_err((code, words.to_owned())),
        _ => PyOSError::new_err(text),
    }
}

/// A number within the range of `T`, or ValueError.
fn number<T: TryFrom<i64>>(name: &str, value: i64) -> PyResult<T> {
    T::try_from(value).map_err(|_| PyValueError::new_err(format!("{name} is out of range: {value}")))
}

fn payload_type(value: i64) -> PyResult<u8> {
    number::<i8>("payload type", value).and_then(|pt| number("payload type", pt.into()))
}

fn size(width: Option<i64>, height: Option<i64>) -> PyResult<Option<Size>> {
    match (width, height) {
        (Some(width), Some(height)) => Ok(Some((number("width", width)?, number("height", height)?))),
        _ => Ok(None),
    }
}

fn address((ip, port): (String, i64)) -> PyResult<SocketAddr> {
    let ip: IpAddr = ip.parse().map_err(|_| PyValueError::new_err(format!("{ip:?} is no IP address")))?;
    Ok(SocketAddr::new(ip, number("port", port)?))
}

fn check_credentials(ufrag: &str, pwd: &str) -> PyResult<()> {
    if ufrag.is_empty() || ufrag.contains(':') || pwd.is_empty() {
        return Err(PyValueError::new_err("ufrag and pwd are needed, and a ufrag has no colon"));
    }
    Ok(())
}

fn plan_of(payloads: Vec<PayloadItem>, extensions: Vec<(String, i64)>, lines: Vec<LineItem>) -> PyResult<Plan> {
    let payloads = payloads.into_iter().map(|(pt, codec, clock_rate, apt)| {
        let clock_rate = number("clock rate", clock_rate)?;
        Ok(Payload { pt: payload_type(pt)?, codec, clock_rate, apt: apt.map(payload_type).transpose()? })
    });
    let extensions = extensions.into_iter().map(|(uri, id)| match number("extension id", id)? {
        0 => Err(PyValueError::new_err("extension id 0 means padding")),
        id => Ok((uri, id)),
    });
    let payloads = payloads.collect::<PyResult<_>>()?;
    let extensions = extensions.collect::<PyResult<_>>()?;
    let lines = lines.into_iter().map(line_of).collect::<PyResult<Vec<_>>>()?;
    let mut mids: Vec<_> = lines.iter().map(|line| line.mid.as_str()).collect();
    mids.sort_unstable();
    if mids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(PyValueError::new_err("two lines have the same mid"));
    }
    let sends = || lines.iter().flat_map(|line| &line.send);
    let mut sources: Vec<u32> =
        sends().flat_map(|send| [Some(send.ssrc), send.rtx.map(|rtx| rtx.0)]).flatten().collect();
    sources.sort_unstable();
    if sources.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(PyValueError::new_err("one ssrc is sent twice")); // SRTP would use one key stream twice
    }
    Ok(Plan { payloads, extensions, lines })
}

fn line_of((mid, kind, receive, send): LineItem) -> PyResult<Line> {
    let kind = match kind.as_str() {
        "audio" => Kind::Audio,
        "video" => Kind::Video,
        other => return Err(PyValueError::new_err(format!("a line is \"audio\" or \"video\", not {other:?}"))),
    };
    let receive = receive.map(|(rids, ssrcs)| {
        let pairs = ssrcs
            .into_iter()
            .map(|(ssrc, rtx)| Ok((number("ssrc", ssrc)?, rtx.map(|rtx| number("rtx ssrc", rtx)).transpose()?)));
        PyResult::Ok(Receive { rids, ssrcs: pairs.collect::<PyResult<_>>()? })
    });
    let send = send.map(transmits_of).transpose()?.unwrap_or_default();
    Ok(Line { mid, kind, receive: receive.transpose()?, send })
}

/// The streams of a line: one, or each simulcast layer's.
fn transmits_of((ssrc, rtx_ssrc, pt, rtx_pt, cname, layers, red_pt): SendItem) -> PyResult<Vec<Transmit>> {
    let red = red_pt.map(payload_type).transpose()?;
    let transmit = |rid: Option<String>, ssrc: i64, rtx_ssrc: Option<i64>| {
        let rtx = match (rtx_ssrc, rtx_pt) {
            (Some(ssrc), Some(pt)) => Some((number("rtx ssrc", ssrc)?, payload_type(pt)?)),
            (None, None) => None,
            _ => return Err(PyValueError::new_err("RTX needs both an ssrc and a payload type")),
        };
        if rid.as_ref().is_some_and(|rid| !(1..=MAX_RID).contains(&rid.len())) {
            return Err(PyValueError::new_err(format!("a rid has 1 to {MAX_RID} bytes")));
        }
        Ok(Transmit { ssrc: number("ssrc", ssrc)?, rtx, pt: payload_type(pt)?, red, cname: cname.clone(), rid })
    };
    if layers.is_empty() {
        return Ok(vec![transmit(None, ssrc, rtx_ssrc)?]);
    }
    layers.into_iter().map(|(rid, ssrc, rtx_ssrc)| transmit(Some(rid), ssrc, rtx_ssrc)).collect()
}

fn to_dict(py: Python<'_>, stats: Stats) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in stats {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}

/// Owns the UDP port and the media threads.
#[pyclass(frozen, name = "MediaCore", module = "mautrix_sfu._media")]
struct PyMediaCore(MediaCore);

#[pymethods]
impl PyMediaCore {
    #[new]
    #[pyo3(signature = (binds, threads = 1))]
    fn new(binds: Vec<(String, i64)>, threads: i64) -> PyResult<Self> {
        if threads < 1 {
            return Err(PyValueError::new_err("at least one media thread is needed"));
        }
        let addresses = binds.into_iter().map(address).collect::<PyResult<Vec<_>>>()?;
        MediaCore::start(&addresses, number("threads", threads)?).map(Self).map_err(|error| os_error(&error))
    }

    fn local_addresses(&self) -> Vec<(String, u16)> {
        self.0.local_addresses().iter().map(|address| (address.ip().to_string(), address.port())).collect()
    }

    fn event_fd(&self) -> RawFd {
        self.0.event_fd()
    }

    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let events = PyList::empty(py);
        for notice in self.0.poll() {
            match notice {
                Notice::Engine(Event::IceConnected(leg)) => events.append(("ice_connected", leg))?,
                Notice::Engine(Event::IceFailed(leg)) => events.append(("ice_failed", leg))?,
                Notice::Engine(Event::IceLost(leg)) => events.append(("ice_lost", leg))?,
                Notice::Engine(Event::Dtls(leg, datagram)) => {
                    events.append(("dtls", leg, PyBytes::new(py, &datagram)))?;
                }
                Notice::Engine(Event::Speaker(leg, mid)) => events.append(("speaker", leg, mid))?,
                Notice::Engine(Event::Suspended(leg, mid, suspended)) => {
                    events.append(("suspended", leg, mid, suspended))?
                }
                Notice::Engine(Event::Flow(leg, mid, flowing)) => events.append(("flow", leg, mid, flowing))?,
                Notice::Failed(message) => events.append(("failed", message))?,
            }
        }
        Ok(events)
    }

    fn add_leg(&self, leg: i64, ufrag: String, pwd: String) -> PyResult<()> {
        check_credentials(&ufrag, &pwd)?;
        Ok(self.0.command(Command::AddLeg { leg: number("leg", leg)?, ufrag, pwd })?)
    }

    fn connect(
        &self,
        leg: i64,
        remote_ufrag: String,
        remote_pwd: String,
        candidates: Vec<(String, i64)>,
    ) -> PyResult<()> {
        check_credentials(&remote_ufrag, &remote_pwd)?;
        let candidates = candidates.into_iter().map(address).collect::<PyResult<Vec<_>>>()?;
        self.0.connect(number("leg", leg)?, remote_ufrag, remote_pwd, &candidates)?.map_err(|error| os_error(&error))
    }

    fn set_credentials(&self, leg: i64, ufrag: String, pwd: String) -> PyResult<()> {
        check_credentials(&ufrag, &pwd)?;
        Ok(self.0.command(Command::SetCredentials { leg: number("leg", leg)?, ufrag, pwd })?)
    }

    fn set_group(&self, leg: i64, group: i64) -> PyResult<()> {
        Ok(self.0.command(Command::SetGroup { leg: number("leg", leg)?, group: number("group", group)? })?)
    }

    #[pyo3(signature = (leg, bits_per_second))]
    fn set_bitrate(&self, leg: i64, bits_per_second: Option<i64>) -> PyResult<()> {
        let bits_per_second = bits_per_second.map(|rate| number("bits per second", rate)).transpose()?;
        Ok(self.0.command(Command::SetBitrate { leg: number("leg", leg)?, bits_per_second })?)
    }

    fn traffic(&self, py: Python<'_>) -> PyResult<Vec<(u64, u64, u64)>> {
        Ok(py.detach(|| self.0.traffic())?)
    }

    fn remove_leg(&self, py: Python<'_>, leg: i64) -> PyResult<()> {
        let leg = number("leg", leg)?;
        Ok(py.detach(|| self.0.command_and_wait(Command::RemoveLeg { leg }))?)
    }

    fn send_dtls(&self, leg: i64, datagram: Vec<u8>) -> PyResult<()> {
        Ok(self.0.command(Command::SendDtls { leg: number("leg", leg)?, datagram })?)
    }

    fn set_keys(
        &self,
        leg: i64,
        profile: &str,
        local_key: Vec<u8>,
        local_salt: Vec<u8>,
        remote_key: Vec<u8>,
        remote_salt: Vec<u8>,
    ) -> PyResult<()> {
        let profile = match profile {
            "SRTP_AEAD_AES_128_GCM" => Profile::AeadAes128Gcm,
            "SRTP_AES128_CM_SHA1_80" => Profile::Aes128CmHmacSha1_80,
            other => return Err(PyValueError::new_err(format!("unknown SRTP profile {other:?}"))),
        };
        let salts = [local_salt.len(), remote_salt.len()];
        if [local_key.len(), remote_key.len()] != [MASTER_KEY; 2] || salts != [profile.salt_length(); 2] {
            return Err(PyValueError::new_err("keys and salts have not the profile's lengths"));
        }
        let local = Master { key: local_key, salt: local_salt };
        let remote = Master { key: remote_key, salt: remote_salt };
        Ok(self.0.command(Command::SetKeys { leg: number("leg", leg)?, profile, local, remote })?)
    }

    fn set_plan(
        &self,
        leg: i64,
        payloads: Vec<PayloadItem>,
        extensions: Vec<(String, i64)>,
        lines: Vec<LineItem>,
    ) -> PyResult<()> {
        let plan = plan_of(payloads, extensions, lines)?;
        Ok(self.0.command(Command::SetPlan { leg: number("leg", leg)?, plan })?)
    }

    #[pyo3(signature = (leg, mid, width, height, first))]
    fn describe_track(
        &self,
        leg: i64,
        mid: String,
        width: Option<i64>,
        height: Option<i64>,
        first: bool,
    ) -> PyResult<()> {
        let size = size(width, height)?;
        Ok(self.0.command(Command::DescribeTrack { leg: number("leg", leg)?, mid, size, first })?)
    }

    #[pyo3(signature = (leg, mid, source_leg, source_mid, width, height))]
    fn forward(
        &self,
        leg: i64,
        mid: String,
        source_leg: i64,
        source_mid: String,
        width: Option<i64>,
        height: Option<i64>,
    ) -> PyResult<()> {
        self.forward_layers(leg, mid, source_leg, source_mid, vec![(width, height)])
    }

    fn forward_layers(
        &self,
        leg: i64,
        mid: String,
        source_leg: i64,
        source_mid: String,
        sizes: Vec<(Option<i64>, Option<i64>)>,
    ) -> PyResult<()> {
        let sizes = sizes.into_iter().map(|(width, height)| size(width, height)).collect::<PyResult<_>>()?;
        let (leg, source_leg) = (number("leg", leg)?, number("source leg", source_leg)?);
        Ok(self.0.command(Command::Forward { leg, mid, source_leg, source_mid, sizes })?)
    }

    fn set_loudest(&self, voices: i64) -> PyResult<()> {
        Ok(self.0.command(Command::SetLoudest { voices: number("voices", voices)? })?)
    }

    fn stop_forward(&self, leg: i64, mid: String) -> PyResult<()> {
        Ok(self.0.command(Command::StopForward { leg: number("leg", leg)?, mid })?)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, py.detach(|| self.0.stats())?)
    }

    fn published<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
        let snapshot = self.0.published()?;
        let (numbers, histograms) = (PyList::empty(py), PyList::empty(py));
        for series in &snapshot.numbers {
            numbers.append((series.name, series.help, series.labels.clone(), series.value))?;
        }
        for series in &snapshot.histograms {
            let value = (series.value.bounds().to_vec(), series.value.counts().to_vec(), series.value.sum());
            histograms.append((series.name, series.help, series.labels.clone(), value))?;
        }
        Ok((numbers, histograms))
    }

    fn leg_stats<'py>(&self, py: Python<'py>, leg: i64) -> PyResult<Option<Bound<'py, PyDict>>> {
        let leg = number("leg", leg)?;
        let stats = py.detach(|| self.0.leg_stats(leg))?;
        stats.map(|stats| to_dict(py, stats)).transpose()
    }

    fn shutdown(&self, py: Python<'_>) {
        py.detach(|| self.0.shutdown());
    }
}

#[pymodule]
fn _media(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("BUILD", crate::BUILD)?;
    module.add_class::<PyMediaCore>()
}
