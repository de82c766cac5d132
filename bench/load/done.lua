-- Sends a body of as many bytes as its argument says, if there is one, and ends wrk's report with one line of JSON; wrk's
-- text leaves out what is zero, and rounds.
function init(args)
    if args[1] then
        wrk.method = "PUT"
        wrk.body = string.rep("x", tonumber(args[1]))
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        'JSON {"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,' ..
        '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
        summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
        errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
