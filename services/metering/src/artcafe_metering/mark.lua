-- Note which batches of a source were applied for all their tenants. Returns {floor, gap}: the highest batch
-- up to which all were applied, and how many were given up (see below).
--
-- KEYS[1] is a window as in apply.lua: 16 digits, the base, and a bitmap of what lies above. A batch that its
-- sender lost leaves a hole, and the floor stays below it. The window is bounded by giving a hole up once it
-- lies WINDOW batches behind (9 days for a sender of one every 0.75 s, while the stream keeps 7): a batch can no
-- longer come from there.
--
-- KEYS: 1 window
-- ARGV: lifetime of the window (ms), size of the window, the highest batch about to be applied, then the
--       batches that were applied
local HEADER, CUT = 16, 2048
local window = KEYS[1]
local WINDOW, highest = tonumber(ARGV[2]), tonumber(ARGV[3])
local base = tonumber(redis.call('GETRANGE', window, 0, HEADER - 1))
local gap = 0

local function cut(target)
  local rest = redis.call('GETRANGE', window, HEADER + (target - base) / 8, -1)
  redis.call('SET', window, string.format('%016d', target) .. rest)
  base = target
end

local function floor_of()
  if redis.call('STRLEN', window) == HEADER then
    return base - 1
  end
  return base + redis.call('BITPOS', window, 0, HEADER) - HEADER * 8 - 1
end

if not base then
  base = 0
  redis.call('SET', window, string.format('%016d', 0))
  -- Sequences start at 1: there is no batch 0 to wait for.
  redis.call('SETBIT', window, HEADER * 8, 1)
end
if highest - base >= WINDOW then
  local target = highest - WINDOW / 2
  target = target - target % 8
  gap = target - base - redis.call('BITCOUNT', window, HEADER, HEADER + (target - base) / 8 - 1)
  cut(target)
end
for i = 4, #ARGV do
  local seq = tonumber(ARGV[i])
  if seq >= base then
    redis.call('SETBIT', window, HEADER * 8 + seq - base, 1)
  end
end
local floor = floor_of()
local target = floor + 1 - (floor + 1) % 8
if target - base >= CUT then
  cut(target)
end
redis.call('PEXPIRE', window, ARGV[1])
return {floor, gap}
