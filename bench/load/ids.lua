-- Gives each request an id, by which the backend decides which of them fail, and reports as done.lua does.
dofile("bench/load/done.lua")

local number = 0

function request()
    number = number + 1
    wrk.headers["X-Bench-Id"] = tostring(number)
    return wrk.format()
end
