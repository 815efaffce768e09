// Runs commands of penstock.js on a simulated machine's memory, as WinDbg would: node scripts/windbg/simulated.js DUMP COMMAND...
//
// DUMP is what `penstock-sim demo --dump DUMP` writes. A COMMAND is written without !pen_, its argument behind a blank:
//
//     node scripts/windbg/simulated.js /tmp/alpha.dump adapters 'log 8'
//
// The stand-in for WinDbg's `host` is strict on purpose. The script finds nothing but ECMAScript 6 and `host`; a host.Int64
// refuses + and == (WinDbg would lose bits silently); memory that the dump does not hold cannot be read. Two of the debugger's
// commands may be run: what they print is as WinDbg's documentation shows it.
"use strict";
const fs = require("fs"), path = require("path"), vm = require("vm");
const SCRIPT = path.join(__dirname, "penstock.js");

/// What WinDbg's engine does not know, or a later ECMAScript has.
const FOREIGN = [/\b(require|module\.|console|process|import|export|BigInt|async|await|globalThis)\b/, /\?\./, /\?\?/, /\*\*/, /\b\d+n\b/, /\.\.\.[^\]]*}\s*=/];

class Int64 {
    constructor(low, high) {
        this.value = BigInt.asUintN(64, high === undefined ? big(low) : BigInt(high) << 32n | BigInt.asUintN(32, BigInt(low)));
        Object.freeze(this);
    }
    add(other) { return new Int64(this.value + big(other)); }
    subtract(other) { return new Int64(this.value - big(other)); }
    multiply(other) { return new Int64(this.value * big(other)); }
    compareTo(other) { return this.value < big(other) ? -1 : Number(this.value > big(other)); }
    getLowPart() { return Number(this.value & 0xffffffffn); }
    getHighPart() { return Number(this.value >> 32n); }
    convertToNumber() { return Number(this.value); }
    toString(radix) { return (radix === 16 ? "0x" : "") + this.value.toString(radix); }
    [Symbol.toPrimitive](hint) {
        if (hint === "string") return this.toString();
        throw new TypeError("arithmetic on a host.Int64: add(), compareTo() and so on are meant");
    }
}

function big(value) {
    if (value instanceof Int64) return value.value;
    if (typeof value === "bigint") return value;
    if (Number.isSafeInteger(value)) return BigInt.asUintN(64, BigInt(value));
    throw new TypeError(`no 64-bit value: ${value}`);
}

function read_dump(file) {
    const all = fs.readFileSync(file), begin = all.indexOf("\n\n") + 2;
    const symbols = {}, regions = [], tagged = [];
    let stop = [];
    let at = begin;
    for (const line of all.toString("latin1", 0, begin - 2).split("\n")) {
        const [kind, first, second] = line.split(" ");
        if (kind === "symbol") symbols[first] = BigInt(second);
        if (kind === "region") regions.push({ base: BigInt(first), data: all.subarray(at, at += Number(second)) });
        if (kind === "tag") tagged.push({ guid: first, data: all.subarray(at, at += Number(second)) });
        if (kind === "stop") stop = line.split(" ").slice(1).map(BigInt);
    }
    return { symbols, regions, tagged, stop };
}

/// As the page of .enumtag shows it, with three hyphens in a GUID. Source: WDD debuggercmds/-enumtag--enumerate-secondary-callback-data-.
function* enumtag({ tagged }) {
    for (const { guid, data } of tagged) {
        yield `{${guid.replace(/(.{8})(.{4})(.{4})/, "$1-$2-$3-")}} - 0x${data.length.toString(16)} bytes`;
        for (let at = 0; at < data.length; at += 16) {
            const bytes = [...data.subarray(at, at + 16)];
            const hex = bytes.map(byte => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
            const letters = bytes.map(byte => byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".").join("");
            yield `  ${hex.padEnd(47)}  ${letters}`;
        }
        yield "";
    }
}

/// Source: WDD debuggercmds/-bugcheck--display-bug-check-data-.
function* bugcheck({ stop: [code, ...parameters] }) {
    const long = word => word.toString(16).padStart(16, "0").replace(/.{8}/, "$&`");
    yield `Bugcheck code ${code.toString(16).toUpperCase().padStart(8, "0")}`;
    yield `Arguments ${parameters.map(long).join(" ")}`;
}

function make_host(dump) {
    const { symbols, regions } = dump, prints = { ".enumtag": enumtag, ".bugcheck": bugcheck };
    const bytes = (where, count) => {
        const at = big(where);
        const found = regions.find(({ base, data }) => at >= base && at + BigInt(count) <= base + BigInt(data.length));
        if (!found) throw new Error(`Unable to read memory at Address 0x${at.toString(16)}`);
        return found.data.subarray(Number(at - found.base), Number(at - found.base) + count);
    };
    const readers = {
        1: (data, at) => data.readUInt8(at),
        2: (data, at) => data.readUInt16LE(at),
        4: (data, at) => data.readUInt32LE(at),
        8: (data, at) => new Int64(data.readBigUInt64LE(at)),
    };
    return {
        Int64,
        memory: {
            readMemoryValues(at, count, size) {
                const data = bytes(at, count * size);
                return Array.from({ length: count }, (_, index) => readers[size](data, index * size));
            },
        },
        namespace: { Debugger: { Utility: { Control: {
            ExecuteCommand(command) {
                if (!prints[command]) throw new Error(`a command that was not looked into: ${command}`);
                return { [Symbol.iterator]: () => prints[command](dump) };
            },
        } } } },
        getModuleSymbolAddress: (module, name) => {
            const at = symbols[`${module}!${name}`];
            return at === undefined ? undefined : new Int64(at);
        },
        apiVersionSupport: class { constructor(major, minor) { this.version = [major, minor]; } },
        functionAlias: class { constructor(body, name) { this.body = body; this.name = name; } },
    };
}

function main([file, ...commands]) {
    if (file === undefined || commands.length === 0) {
        console.error("usage: node scripts/windbg/simulated.js DUMP COMMAND...");
        return 2;
    }
    const source = fs.readFileSync(SCRIPT, "utf8"), code = source.replace(/\/\/.*$/gm, "");
    const foreign = FOREIGN.find(pattern => pattern.test(code));
    if (foreign) throw new Error(`penstock.js has what WinDbg does not know: ${code.match(foreign)[0]}`);
    const host = make_host(read_dump(file)), context = vm.createContext({ host });
    vm.runInContext(source, context, { filename: SCRIPT });
    const aliases = new Map();
    for (const made of vm.runInContext("initializeScript()", context)) {
        if (made instanceof host.functionAlias) aliases.set(made.name, made.body);
    }
    for (const command of commands) {
        const [name, argument] = command.split(" "), body = aliases.get(`pen_${name}`);
        console.log(`> !pen_${command}`);
        if (!body) throw new Error(`there is no !pen_${name}`);
        for (const line of body(argument === undefined ? undefined : new Int64(BigInt(argument)))) console.log(line);
    }
    return 0;
}

process.exitCode = main(process.argv.slice(2));
