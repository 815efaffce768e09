"use strict";
// What Penstock keeps, shown by WinDbg, in a dump or on a machine that is being debugged. It only reads.
//
//     .scriptload penstock.js        then   !pen_help
//
// It begins at the exported PenstockDescriptor (abi/src/descriptor.rs), which says where this very build of the driver has
// what: so the driver's .sys is enough, symbols are not needed. What a dump does not hold as memory, the data that the driver put
// behind it may have (abi/src/dump.rs; a line of it says so); what neither has is said line by line, and the rest is shown. No key
// is read, because the descriptor does not say where one is.
//
// WinDbg's JavaScript is ECMAScript 6 with the object `host` and nothing else. A 64-bit value is a host.Int64, on which + and ==
// lose bits: its methods are used. A function's answer is what WinDbg shows, so each command returns lines.

const MODULE = "penstock";
const SYMBOL = "PenstockDescriptor";
const MAGIC = "PENSTOCK";
const VERSION = 1;
/// KUSER_SHARED_DATA.InterruptTime, at the same address in every Windows (WDK: ntddk.h).
const INTERRUPT_TIME = [0xFFFFF780, 0x00000008];
/// The most that is followed of any list: longer ones are torn, or loops.
const MOST = 65536;
const TIERS = ["portable", "SSE2", "AVX2", "AVX-512", "AVX-512 with IFMA"];
const TIMERS = ["retransmit", "keepalive", "new handshake", "erase", "persistent keepalive"];
const STATES = ["queued", "running", "done"];

/// What the driver put behind the dump: under which GUID, what it begins with, and how a line ends that is of it.
const TAG = "8E0F3F702D3B4B579C7A5C1B8E0A6D41";
const DATA_MAGIC = "PENSDUMP";
const BEHIND = " [secondary data]";

/// What a debugger's command prints.
function printed(command) { return Array.from(host.namespace.Debugger.Utility.Control.ExecuteCommand(command)); }

/// The bytes under our GUID. `.enumtag` prints them by sixteen, with letters behind.
/// Source: WDD debuggercmds/-enumtag--enumerate-secondary-callback-data-.
function tagged() {
    const bytes = [];
    let left = 0;
    for (const line of printed(".enumtag")) {
        const head = /^\s*\{([0-9A-F-]+)\} - 0x([0-9A-F]+) bytes/i.exec(line);
        if (head) left = head[1].replace(/-/g, "").toUpperCase() === TAG ? parseInt(head[2], 16) : 0;
        const pairs = head ? [] : line.trim().split(/[ -]/, Math.min(left, 16));
        if (!pairs.every(pair => /^[0-9A-F]{2}$/i.test(pair))) continue;
        pairs.forEach(pair => bytes.push(parseInt(pair, 16)));
        left -= pairs.length;
    }
    return bytes;
}

/// The parts of memory in the data behind the dump, as far as they are there.
class Behind {
    constructor() {
        this.bytes = tagged();
        this.parts = [];
        if (String.fromCharCode.apply(null, this.bytes.slice(0, 8)) !== DATA_MAGIC || this.number(8, 4) !== 1) return;
        let begin = 16 + 16 * this.number(12, 4);
        for (let part = 16, end = begin; part < end; part += 16) {
            const length = this.number(part + 8, 4);
            if (begin + length <= this.bytes.length) this.parts.push({ at: this.number(part, 8), length, begin });
            begin += length;
        }
    }
    number(at, size) {
        if (size === 8) return new host.Int64(this.number(at, 4), this.number(at + 4, 4));
        return this.bytes.slice(at, at + size).reduceRight((all, byte) => all * 256 + byte, 0);
    }
    /// So many values, or undefined.
    values(at, count, size) {
        const bytes = count * size, place = part => number(at.subtract(part.at));
        const part = this.parts.find(part => at.compareTo(part.at) >= 0 && place(part) + bytes <= part.length);
        return part && Array.from({ length: count }, (_, index) => this.number(part.begin + place(part) + index * size, size));
    }
}

/// Where values are from: the data behind the dump, once they were needed; whether they are asked first; and whether what is said
/// next is of them.
const source = { behind: null, first: false, told: false };

function fromBehind(at, count, size) {
    source.behind = source.behind || new Behind();
    const found = source.behind.values(int64(at), count, size);
    if (found) source.told = true;
    return found;
}

function values(at, count, size) {
    const found = source.first && fromBehind(at, count, size);
    if (found) return found;
    try {
        return host.memory.readMemoryValues(at, count, size);
    } catch (error) {
        const instead = fromBehind(at, count, size);
        if (instead) return instead;
        throw error;
    }
}

/// Lines, each of which says whether it is of what was put behind the dump.
class Lines extends Array {
    push(line) {
        super.push(source.told ? line + BEHIND : line);
        source.told = false;
    }
}

function u8(at) { return values(at, 1, 1)[0]; }
function u16(at) { return values(at, 1, 2)[0]; }
function u32(at) { return values(at, 1, 4)[0]; }
function u64(at) { return values(at, 1, 8)[0]; }
function text(at, bytes) { return values(at, bytes, 1).reduce((all, byte) => all + String.fromCharCode(byte), ""); }
function isNull(value) { return value.compareTo(0) === 0; }
function number(value) { return value.convertToNumber(); }
function hex(value) { return value.toString(16).replace(/^(0x)?/, "0x"); }
function hex32(value) { return "0x" + ("0000000" + value.toString(16)).slice(-8); }
function int64(value) { return value.compareTo ? value : new host.Int64(value); }
function same(a, b) { return a.compareTo(b) === 0; }
function never(value) { return value.getLowPart() === 0xFFFFFFFF && value.getHighPart() === 0xFFFFFFFF; }
function plural(count, one) { return `${count} ${one}${count === 1 ? "" : "s"}`; }
function seconds(nanoseconds) { return `${(nanoseconds / 1e9).toFixed(3)} s`; }

/// What a line says, or why it cannot be said.
function attempt(lines, what, body) {
    try {
        body();
    } catch (error) {
        source.told = false;
        lines.push(`${what}: not to be had here (${error.message})`);
    }
}

function base64(bytes) {
    const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let out = "";
    for (let at = 0; at < bytes.length; at += 3) {
        const [a, b, c] = [bytes[at], bytes[at + 1], bytes[at + 2]];
        out += digits[a >> 2] + digits[(a & 3) << 4 | b >> 4];
        out += b === undefined ? "=" : digits[(b & 15) << 2 | c >> 6];
        out += c === undefined ? "=" : digits[c & 63];
    }
    return out;
}

/// A structure of the driver's at an address, whose fields are read by name.
class Struct {
    constructor(driver, kind, at) {
        this.driver = driver;
        this.kind = kind;
        this.at = at;
    }
    field(name) { return this.at.add(this.driver.place(this.kind, name)); }
    u8(name) { return u8(this.field(name)); }
    u16(name) { return u16(this.field(name)); }
    u32(name) { return u32(this.field(name)); }
    u64(name) { return u64(this.field(name)); }
    inner(name, kind) { return new Struct(this.driver, kind, this.field(name)); }
    pointer(name, kind) { return new Struct(this.driver, kind, this.u64(name)); }
    /// What a counted reference in the field leads to; null if there is none.
    shared(name, kind) { return this.driver.shared(this.u64(name), kind); }
    /// The elements' addresses of a vector, each of so many bytes.
    vector(name, bytes) {
        const [at, count] = this.driver.vector(this.field(name));
        return Array.from({ length: count }, (_, index) => at.add(index * bytes));
    }
}

class Driver {
    constructor() {
        const at = host.getModuleSymbolAddress(MODULE, SYMBOL);
        if (!at) throw new Error(`no ${MODULE}!${SYMBOL}: the driver is not loaded, or too old for this script; .reload /f ${MODULE}.sys`);
        if (text(at, 8) !== MAGIC) {
            throw new Error(`what is at ${MODULE}!${SYMBOL} is no descriptor: symbols or the .sys are of another build (lmvm ${MODULE})`);
        }
        const version = u32(at.add(8));
        if (version !== VERSION) throw new Error(`the driver's descriptor is version ${version}, this script knows ${VERSION}: take the driver's own script`);
        // Of a driver that is not at work, or of the image's file, where the dump does not hold the image's variables.
        if (isNull(u64(at.add(16)))) source.first = fromBehind(at, 1, 8) !== undefined;
        this.core_at = u64(at.add(16));
        this.recorder = u64(at.add(24));
        this.words = values(at.add(32), 2, 4);
        this.texts = [40, 56, 72, 88].map(offset => () => this.text(at.add(offset)));
        this.places = {};
        const groups = number(u64(at.add(104)));
        for (let group = 0; group < groups; group++) this.readGroup(at.add(112 + 32 * group));
        source.told = false;
    }
    readGroup(at) {
        const prefix = this.text(at).trim();
        const count = number(u64(at.add(24)));
        for (let index = 0; index < count; index++) {
            const places = u64(at.add(16)).add(32 * index);
            const names = this.text(places).split(" ");
            const numbers = values(u64(places.add(16)), names.length, 4);
            const fields = {};
            names.slice(1).forEach((name, field) => { fields[name] = numbers[field + 1]; });
            this.places[prefix + names[0]] = { size: numbers[0], fields };
        }
    }
    text(at) { return text(u64(at), number(u64(at.add(8)))); }
    table(which) { return this.texts[which]().trim().split("\n"); }
    get events() { return this.table(0).map(line => line.split(";")); }
    get discards() { return this.table(1); }
    get counters() { return this.table(2); }
    get policies() { return this.table(3); }
    structure(kind) {
        const known = this.places[kind];
        if (known === undefined) throw new Error(`this build of the driver does not tell of ${kind}`);
        return known;
    }
    size(kind) { return this.structure(kind).size; }
    place(kind, field) {
        const at = this.structure(kind).fields[field];
        if (at === undefined) throw new Error(`this build of the driver does not tell of ${kind}.${field}`);
        return at;
    }
    shared(reference, kind) {
        return isNull(reference) ? null : new Struct(this, kind, reference.add(this.place(kind, "shared")));
    }
    vector(at) {
        const [address, length] = this.words;
        if (address === length) throw new Error("how vectors are laid out was not found out: the driver was not loaded yet");
        const count = number(u64(at.add(8 * length)));
        if (count > MOST) throw new Error(`a vector of ${count} elements: torn, or not one`);
        return [u64(at.add(8 * address)), count];
    }
    get core() {
        if (isNull(this.core_at)) throw new Error("the driver is not at work: it is being loaded or unloaded, or its DriverEntry failed");
        return new Struct(this, "Core", this.core_at);
    }
    get cpus() {
        return this.core.inner("processors", "Processors").vector("set", this.size("Cpu")).map(at => new Struct(this, "Cpu", at));
    }
    get devices() {
        const desk = this.core.inner("workers", "Workers").shared("desk", "Desk");
        return desk.vector("devices", 8).map(at => new Device(this, this.shared(u64(at), "Device")));
    }
    /// Every adapter there is; what cannot be read is noted in `lines`.
    eachDevice(lines, body) {
        for (const device of this.devices) attempt(lines, "an adapter", () => body(device));
    }
    /// Every peer, with its adapter.
    each(lines, body) {
        this.eachDevice(lines, device => {
            for (const peer of device.peers()) attempt(lines, `  peer at ${hex(peer.at)}`, () => body(peer, device));
        });
    }
    /// Now, in nanoseconds since boot, as of the last clock tick; undefined if the dump does not hold it.
    get now() {
        try {
            return u64(new host.Int64(INTERRUPT_TIME[1], INTERRUPT_TIME[0])).multiply(100);
        } catch (error) {
            return undefined;
        }
    }
    /// How long ago that was, or when it was.
    ago(nanoseconds) {
        const now = this.now;
        if (now === undefined) return `${seconds(number(nanoseconds))} after boot`;
        const age = number(now) - number(nanoseconds);
        return age >= 0 ? `${seconds(age)} ago` : `in ${seconds(-age)}`;
    }
}

class Device {
    constructor(driver, struct) {
        this.driver = driver;
        this.struct = struct;
        this.tunnel = struct.inner("tunnel", "Tunnel");
    }
    get number() { return number(this.tunnel.u64("number")); }
    /// How many peers, which a small dump may not hold.
    get peerCount() {
        try {
            return plural(this.peers().length, "peer");
        } catch (error) {
            return "peers not to be had here";
        }
    }
    peers() {
        const slots = this.tunnel.vector("peers", 8).map(at => this.driver.shared(u64(at), "Peer"));
        return slots.map((struct, slot) => struct && new Peer(this.driver, struct, slot)).filter(peer => peer !== null);
    }
    /// The sum over all CPUs of each counter.
    counters() {
        const names = this.driver.counters, all = this.struct.inner("counters", "Counters");
        const sums = values(all.field("counters"), names.length, 8);
        for (const own of all.vector("own", this.driver.size("OwnCounters"))) {
            values(own, names.length, 8).forEach((value, index) => { sums[index] = sums[index].add(value); });
        }
        return sums.map((value, index) => [names[index], value]);
    }
    discards() {
        const names = this.driver.discards;
        const counted = values(this.struct.inner("counters", "Counters").field("discards"), names.length, 8);
        return counted.map((value, index) => {
            const elsewhere = { StagedDropped: "staged_dropped", PeerRemoved: "staged_removed" }[names[index]];
            return [names[index], elsewhere ? value.add(this.tunnel.u64(elsewhere)) : value];
        });
    }
}

class Peer {
    constructor(driver, struct, slot) {
        this.driver = driver;
        this.struct = struct;
        this.slot = slot;
    }
    get at() { return this.struct.at; }
    get key() { return base64(Array.from(values(this.struct.field("public_key"), 32, 1))); }
    get endpoint() {
        const address = this.struct.inner("endpoint", "Endpoint").inner("remote", "SocketAddr");
        const kind = address.u8("kind");
        if (kind === 0) return `${Array.from(values(address.field("v4_address"), 4, 1)).join(".")}:${address.u16("v4_port")}`;
        if (kind !== 1) return "unknown";
        const bytes = values(address.field("v6_address"), 16, 1);
        const words = Array.from({ length: 8 }, (_, word) => (bytes[2 * word] << 8 | bytes[2 * word + 1]).toString(16));
        return `[${words.join(":")}]:${address.u16("v6_port")}`;
    }
    sum(direction) { return this.struct.u64(`${direction}_bytes`).add(this.struct.u64(`data_${direction}_bytes`)); }
    get lanes() {
        const paths = this.struct.inner("attached", "Paths");
        return [["seal", "Send"], ["send", "Send"], ["open", "Receive"]].map(([name, way]) => new Lane(this.driver, paths.field(name), name, way));
    }
    /// The sessions there are, each with its part.
    get keypairs() {
        const parts = ["previous", "current", "next"].map(part => [part, this.struct.shared(part, "Keypair")]);
        return parts.filter(([, keypair]) => keypair !== null);
    }
    toString() {
        const sessions = this.keypairs.map(([part]) => part).join(" ") || "none";
        return `${this.key} at ${hex(this.at)}: ${this.struct.u8("enabled") ? "enabled" : "disabled"}, endpoint ${this.endpoint}, `
            + `sent ${this.sum("tx")}, received ${this.sum("rx")} bytes, sessions ${sessions}`;
    }
}

/// A lane of a peer, and the chunks in it.
class Lane {
    constructor(driver, at, name, way) {
        this.driver = driver;
        this.struct = new Struct(driver, `${way}Lane`, at);
        this.name = name;
        this.way = way;
    }
    get length() { return number(this.struct.u64("len")); }
    get owned() { return this.struct.u8("owned") !== 0; }
    toString() { return `${this.name} ${plural(this.length, "chunk")}${this.owned ? " (owned)" : ""}`; }
    *chunks() {
        const kind = `${this.way}Chunk`;
        let chunk = this.struct.shared("head", kind);
        for (let count = 0; chunk !== null; count++) {
            if (count > MOST) throw new Error("the list of chunks has no end");
            yield chunk;
            chunk = chunk.shared("next", kind);
        }
    }
}

function keypairLine(driver, part, keypair) {
    const may = [["send", "may_send"], ["receive", "may_receive"]].filter(([, field]) => keypair.u8(field) !== 0);
    return `${part} at ${hex(keypair.at)}: ${keypair.u8("initiator") ? "initiator" : "responder"}, made ${driver.ago(keypair.u64("born"))}, `
        + `index ${hex32(keypair.u32("local_index"))} of ours, ${hex32(keypair.u32("remote_index"))} of theirs, `
        + `sent ${keypair.u64("next_counter")}, received up to ${keypair.u64("received")}, `
        + `may ${may.map(([what]) => what).join(" and ") || "neither send nor receive"}`;
}

function timerLines(driver, peer) {
    const timers = peer.struct.inner("timers", "Timers");
    const lines = [];
    values(timers.field("deadlines"), TIMERS.length, 8).forEach((at, index) => {
        if (!never(at)) lines.push(`${TIMERS[index]} ${driver.ago(at)}`);
    });
    const scheduled = timers.u64("scheduled");
    if (!never(scheduled)) lines.push(`looked at ${driver.ago(scheduled)}`);
    const attempts = timers.u32("attempts");
    if (attempts > 0) lines.push(`${plural(attempts, "initiation")} sent again`);
    if (timers.u8("initiation_wanted")) lines.push("an initiation is wanted");
    return lines;
}

/// Each with what it is for, what is said if it finds nothing, and what it does.
const commands = {
    help: ["what there is", "", (driver, lines) => Object.keys(commands).forEach(name => lines.push(`!pen_${name} - ${commands[name][0]}`))],

    adapters: ["every adapter", "there is no adapter", (driver, lines) => driver.eachDevice(lines, device => {
        const { struct, tunnel } = device;
        lines.push(`adapter ${device.number} at ${hex(struct.at)}: ${tunnel.u8("up") ? "up" : "down"}, `
            + `${isNull(struct.u64("sockets")) ? "no sockets" : "sockets open"}, port asked for ${struct.u16("port") || "any"}, `
            + `MTU ${tunnel.u32("mtu")}, LUID ${hex(struct.u64("luid"))}, ${device.peerCount}, `
            + `${struct.u64("failures")} sends failed, ${plural(number(struct.u64("errands")), "errand")} out`);
    })],

    peers: ["every peer, or those of adapter N", "there is no peer", (driver, lines, adapter) => driver.each(lines, (peer, device) => {
        if (adapter === undefined || number(int64(adapter)) === device.number) lines.push(`adapter ${device.number}, peer ${peer.slot}: ${peer}`);
    })],

    peer: ["all about the peer at ADDRESS, which !pen_peers tells", "there is no such peer", (driver, lines, address) => {
        if (address === undefined) return lines.push("!pen_peer ADDRESS; !pen_peers tells the addresses");
        driver.each(lines, (peer, device) => {
            if (!same(peer.at, int64(address))) return;
            const { struct } = peer;
            lines.push(`adapter ${device.number}, peer ${peer.slot}: ${peer}`);
            attempt(lines, "  what is set", () => {
                const handshake = struct.u64("latest_handshake");
                lines.push(`  persistent keepalive ${struct.u16("persistent_keepalive_s") || "off"}, `
                    + `longest packet ${struct.inner("attached", "Paths").u32("inner_mtu") || "not known"}, `
                    + `latest handshake ${isNull(handshake) ? "never" : new Date(number(handshake) / 1e6).toISOString()}`);
            });
            attempt(lines, "  what waits", () => lines.push(`  staged ${struct.u64("staged_bytes")} bytes, ${struct.u64("staged_discarded")} packets discarded; `
                + peer.lanes.join(", ")));
            attempt(lines, "  sessions", () => peer.keypairs.forEach(([part, keypair]) => lines.push(`  ${keypairLine(driver, part, keypair)}`)));
            attempt(lines, "  timers", () => timerLines(driver, peer).forEach(line => lines.push(`  timer: ${line}`)));
        });
    }],

    keypairs: ["every session: ages and counters, never keys", "there is no session", (driver, lines) => {
        driver.each(lines, (peer, device) => peer.keypairs.forEach(([part, keypair]) => {
            lines.push(`adapter ${device.number}, peer ${peer.slot}, ${keypairLine(driver, part, keypair)}`);
        }));
    }],

    queues: ["what waits: for a CPU, for a worker, in a peer's order", "nothing waits", (driver, lines) => {
        attempt(lines, "CPUs", () => driver.cpus.forEach(cpu => attempt(lines, "a CPU", () => {
            const post = cpu.shared("post", "Post");
            const account = post.inner("account", "Account");
            lines.push(`CPU ${cpu.u32("index")}: ${post.u8("served") ? "has work" : "idle"}${post.u8("is_at_work") ? ", at work" : ""}, `
                + `last at it for ${account.u32("time_100ns") / 10} us and ${plural(account.u32("packets"), "packet")} of a tick`);
        })));
        driver.eachDevice(lines, device => {
            const queue = device.struct.inner("handshakes", "HandshakeQueue");
            lines.push(`adapter ${device.number}: ${plural(number(queue.u64("waiting")), "handshake message")} of ${queue.u64("most")} at most`);
            attempt(lines, "  peers for a worker", () => {
                const place = driver.place("Peer", "attached");
                let peer = device.struct.inner("service", "ServiceQueue").shared("head", "Peer"), count = 0;
                for (; peer !== null && count <= MOST; count++) {
                    peer = new Struct(driver, "Paths", peer.at.add(place)).shared("next_served", "Peer");
                }
                lines.push(`  ${plural(count, "peer")} for a worker`);
            });
        });
        driver.each(lines, (peer, device) => {
            const waiting = peer.lanes.filter(lane => lane.length > 0 || lane.owned);
            if (waiting.length > 0) lines.push(`  adapter ${device.number}, peer ${peer.slot}: ${waiting.join(", ")}`);
        });
    }],

    inflight: ["every chunk of packets under way", "nothing is under way", (driver, lines) => {
        driver.each(lines, (peer, device) => peer.lanes.forEach(lane => {
            const name = `adapter ${device.number}, peer ${peer.slot}, ${lane.name}`;
            attempt(lines, name, () => {
                for (const chunk of lane.chunks()) {
                    const work = chunk.pointer("work", lane.way === "Send" ? "SendWork" : "ReceiveWork");
                    const what = isNull(work.at) ? "empty" : lane.way === "Send"
                        ? `${plural(number(work.u64("data_packets")), "packet")} from counter ${work.u64("first_counter")} on, session at ${hex(work.u64("keypair"))}`
                        : `for index ${hex32(work.u32("receiver"))}, session at ${hex(work.u64("keypair"))}`;
                    lines.push(`${name}: chunk at ${hex(chunk.at)} is ${STATES[chunk.u8("state")] || "torn"}, ${what}`);
                }
            });
        }));
    }],

    buffers: ["run buffers, and receive buffers by who has them", "", (driver, lines) => {
        attempt(lines, "run buffers", () => runs(driver).forEach(({ name, free, made }) => {
            lines.push(`run buffers for ${name}: ${free} of ${made} free, ${made - free} away`);
        }));
        attempt(lines, "receive buffers", () => {
            const { memory, held, lent, listed } = receiveBuffers(driver);
            lines.push(`receive buffers of ${memory.u32("buffer_bytes")} bytes: ${memory.u32("buffers")} made, ${listed} free or waiting, `
                + `${held} held, ${lent} lent to the stack`);
        });
    }],

    discards: ["what each adapter counted, and every discard by its reason", "there is no adapter", (driver, lines) => {
        driver.eachDevice(lines, device => {
            const counted = [...device.counters(), ...device.discards().map(([name, value]) => [`discarded ${name}`, value])];
            const behind = source.told;
            for (const line of [`adapter ${device.number}`, ...counted.filter(([, value]) => !isNull(value)).map(([name, value]) => `  ${name} ${value}`)]) {
                source.told = behind;
                lines.push(line);
            }
        });
    }],

    timers: ["every peer's timers that run", "there is no peer", (driver, lines) => driver.each(lines, (peer, device) => {
        lines.push(`adapter ${device.number}, peer ${peer.slot}: ${timerLines(driver, peer).join(", ") || "none runs"}`);
    })],

    log: ["the last N records of the flight recorder, 32 unless told", "nothing was recorded", (driver, lines, most) => {
        const records = readRecords(driver, lines), last = records[records.length - 1];
        for (const record of records.slice(-(most === undefined ? 32 : number(int64(most))))) {
            const before = (last.high - record.high) * 4294967296 + (last.low - record.low);
            source.told = record.behind;
            lines.push(`${before} ticks before, CPU ${record.cpu}, IRQL ${record.irql}: ${record.text}`);
        }
    }],

    nbl: ["what of ours others have: sends, and received packets", "", (driver, lines) => {
        attempt(lines, "sends", () => {
            const away = runs(driver).reduce((sum, { free, made }) => sum + made - free, 0);
            lines.push(`${plural(away, "run")} of datagrams with the network stack, or being filled`);
        });
        attempt(lines, "received packets", () => lines.push(`${plural(receiveBuffers(driver).lent, "received packet")} with NetAdapterCx or the stack above`));
        attempt(lines, "chunks", () => {
            const under_way = { Send: 0, Receive: 0 };
            driver.each(lines, peer => peer.lanes.forEach(lane => { under_way[lane.way] += lane.length; }));
            lines.push(`${plural(under_way.Send, "chunk")} on the way out, ${plural(under_way.Receive, "chunk")} on the way in: `
                + "these hold the adapter's and the network's packets");
        });
    }],

    verify: ["whether all of it holds together", "", verify],

    tuning: ["policy values, the CPUs that share the work, the vector code", "", (driver, lines) => {
        attempt(lines, "vector code", () => lines.push(`vector code: ${TIERS[driver.core.u8("tier")] || "unknown"} is the widest of this machine`));
        attempt(lines, "CPUs", () => lines.push(`CPUs that seal and open: ${driver.cpus.map(cpu => cpu.u32("index")).join(", ")}`));
        attempt(lines, "policy", () => driver.policies.forEach((name, index) => {
            lines.push(`policy ${name} ${u32(driver.core.inner("policies", "Policies").field("values").add(4 * index))}`);
        }));
    }],

    bugcheck: ["what the stop code says, where it is ours, and where to look", "", bugcheck],
};

function runs(driver) {
    const pool = driver.core.inner("runs", "RunPool");
    return [["one datagram", "singles"], ["4 datagrams", "fews"], ["32 datagrams", "fulls"]].map(([name, field]) => {
        const home = pool.inner(field, "SendPool").pointer("home", "SendHome");
        return { name, free: number(home.u64("count")), made: driver.place("RunPool", `${field}_made`) };
    });
}

function receiveBuffers(driver) {
    const memory = new Struct(driver, "RxMemory", u64(driver.core.field("buffers")));
    const [at] = driver.vector(memory.field("slots")), bytes = driver.size("RxSlot") / 4;
    const word = driver.place("RxSlot", "word") / 4;
    const words = values(at, memory.u32("buffers") * bytes, 4);
    let held = 0, lent = 0, listed = 0;
    for (let slot = word; slot < words.length; slot += bytes) {
        if (words[slot] === 0xFFFFFFFF) held++; else if (words[slot] === 0xFFFFFFFE) lent++; else listed++;
    }
    return { memory, held, lent, listed };
}

/// The records of all CPUs, oldest first.
function readRecords(driver, lines) {
    const at = driver.recorder, records = [];
    if (text(at, 8) !== MAGIC || u32(at.add(8)) !== 1) throw new Error("the flight recorder is of another version, or not in this dump");
    const rings = u64(at.add(16)), [rings_count, ring_bytes, records_at, most, record_bytes] = values(at.add(24), 5, 4);
    const events = driver.events, discards = driver.discards;
    for (let cpu = 0; cpu < rings_count && !isNull(rings); cpu++) {
        attempt(lines, `the ring of CPU ${cpu}`, () => {
            source.told = false;
            const ring = rings.add(cpu * ring_bytes), next = values(ring, 2, 4);
            const words = values(ring.add(records_at), most * record_bytes / 4, 4), behind = source.told;
            const written = next[1] > 0 ? most : Math.min(most, next[0]);
            for (let back = written; back > 0; back--) {
                const index = (next[0] + 4294967296 - back) % 4294967296, begin = index % most * record_bytes / 4;
                const [low, high, what, count, ...rest] = words.slice(begin, begin + 12);
                const event = events[what & 0xFFFF];
                // Just being written, or from before this ring was.
                if (count !== index || event === undefined) continue;
                const named = event.slice(1).map((name, word) => {
                    const value = rest[2 * word + 1] * 4294967296 + rest[2 * word];
                    return name === "reason" && discards[value] ? `reason ${value} (${discards[value]})` : `${name} ${value}`;
                });
                records.push({ cpu, low, high, behind, irql: what >>> 16 & 0xFF, text: [event[0], ...named].join(", ") });
            }
        });
    }
    return records.sort((a, b) => a.high - b.high || a.low - b.low);
}

function verify(driver, lines) {
    const wrong = [];
    let adapters = 0, peers = 0, keypairs = 0, chunks = 0;
    const numbers = {};
    const check = (holds, what) => { if (!holds) wrong.push(what); };
    const counted = (struct, what) => {
        const references = u64(struct.at.subtract(driver.place(struct.kind, "shared")));
        check(!isNull(references) && references.getHighPart() === 0, `${what} has ${references} references`);
    };
    driver.eachDevice(wrong, device => {
        adapters++;
        check(!numbers[device.number], `two adapters have number ${device.number}`);
        numbers[device.number] = true;
        counted(device.struct, `adapter ${device.number}`);
    });
    driver.each(wrong, (peer, device) => {
        const name = `adapter ${device.number}, peer ${peer.slot}`;
        peers++;
        counted(peer.struct, name);
        check(number(peer.struct.u64("tunnel")) === device.number, `${name} says it is of another adapter`);
        check(peer.struct.u32("slot") === peer.slot, `${name} says it is in slot ${peer.struct.u32("slot")}`);
        for (const [part, keypair] of peer.keypairs) {
            keypairs++;
            counted(keypair, `${name}, ${part} session`);
            check(same(keypair.u64("peer").add(driver.place("Peer", "shared")), peer.at), `${name}: the ${part} session is another peer's`);
        }
        for (const lane of peer.lanes) {
            let count = 0;
            for (const chunk of lane.chunks()) {
                count++;
                counted(chunk, `${name}, a chunk to ${lane.name}`);
                check(chunk.u8("state") < STATES.length, `${name}: a chunk to ${lane.name} is torn`);
            }
            chunks += count;
            check(count === lane.length, `${name}: ${lane.name} says it has ${lane.length} chunks, and has ${count}`);
        }
    });
    attempt(wrong, "run buffers", () => runs(driver).forEach(({ name, free, made }) => {
        check(free <= made, `more run buffers for ${name} are free than were made: ${free} of ${made}`);
    }));
    attempt(wrong, "receive buffers", () => {
        const { memory, held, lent, listed } = receiveBuffers(driver);
        check(held + lent + listed === memory.u32("buffers"), "receive buffers are missing");
    });
    lines.push(`looked at ${plural(adapters, "adapter")}, ${plural(peers, "peer")}, ${plural(keypairs, "session")}, ${plural(chunks, "chunk")}`);
    if (wrong.length === 0) lines.push("all of it holds together");
    wrong.forEach(what => lines.push(`WRONG: ${what}`));
}

/// What to look at for stop codes that are not ours. Source: WDD debugger/bug-check-0x133, 0xd1, 0x9f, 0xc4, 0x10d.
const HINTS = {
    0x133: "a DPC took too long: !pen_log (LongestAtDispatch), !pen_discards (LongestAtDispatch100ns), !pen_queues",
    0xD1: "pageable or invalid memory at raised IRQL: `ln` of parameter 4 says whose code; !pen_verify",
    0x9F: "a power transition does not end: !pen_log (PoweredDown, PoweredUp), !pen_nbl, !pen_inflight",
    0xC4: "Driver Verifier: parameter 1 says which rule; !pen_verify, !pen_nbl",
    0x10D: "the framework found a mistake: !wdfkd.wdfcrashdump penstock",
};

/// The stop's code and parameters: as the kernel keeps them, or as the dump's head has them.
function stopData() {
    const at = host.getModuleSymbolAddress("nt", "KiBugCheckData");
    try {
        if (at) return [values(at, 5, 8), ""];
    } catch (error) {
        // A small dump does not hold them.
    }
    const words = printed(".bugcheck").join(" ").match(/^\s*Bugcheck code ([0-9A-F]+)\s+Arguments (\S+) (\S+) (\S+) (\S+)/i);
    if (!words) throw new Error("neither nt!KiBugCheckData nor .bugcheck says: .symfix, .reload");
    const whole = word => {
        const digits = ("0000000000000000" + word.replace("`", "")).slice(-16);
        return new host.Int64(parseInt(digits.slice(8), 16), parseInt(digits.slice(0, 8), 16));
    };
    return [words.slice(1, 6).map(whole), " [.bugcheck]"];
}

function bugcheck(none, lines) {
    const [[code, a, b, c, d], origin] = stopData();
    if (isNull(code)) return lines.push("no stop: the machine was running");
    lines.push(`stop ${hex(code)} (${[a, b, c, d].map(hex).join(", ")})${origin}`);
    const low = code.getLowPart();
    if (low === 0x506E7374) {
        attempt(lines, "Penstock panicked", () => lines.push(`Penstock panicked at ${text(a, Math.min(number(b), 512))}:${c}:${d}`));
    } else if (low === 0x506E7349) {
        lines.push(`Penstock found what cannot be: ${["", "a receive buffer whose number its pool does not have", "a function of NetAdapterCx that was not bound"][number(a)] || "unknown"}`);
    } else {
        lines.push(HINTS[low] || "not a stop code of Penstock's; !analyze -v");
    }
    attempt(lines, "the last records", () => commands.log[2](new Driver(), lines, 8));
}

/// Commands that say something where there is no driver.
const ALONE = ["help", "bugcheck"];

/// Runs a command: what is wrong with all of it is a line, too.
function run(name, argument) {
    const lines = new Lines(), [, nothing, body] = commands[name];
    try {
        Object.assign(source, { behind: null, first: false, told: false });
        body(ALONE.indexOf(name) >= 0 ? null : new Driver(), lines, argument);
        if (lines.length === 0 && nothing) lines.push(nothing);
    } catch (error) {
        source.told = false;
        lines.push(`!pen_${name}: ${error.message}`);
    }
    return lines;
}

function initializeScript() {
    const alias = name => new host.functionAlias(argument => run(name, argument), `pen_${name}`);
    return [new host.apiVersionSupport(1, 7)].concat(Object.keys(commands).map(alias));
}
