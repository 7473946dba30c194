// Chinese and English: by the browser's language, or as chosen.

const TEXTS = {
  zh: {
    search: "搜索照片", placeholder: "照片里的文字，或画面的样子", filters: "筛选", index: "索引",
    other: "EN", otherName: "Switch to English", home: "最新的照片",
    help: [
      ["发票 2024", "两个词都有"], ["发票 OR 收据", "有一个就行"], ['"上海 虹桥"', "一字不差"],
      ["菜单 -牛肉", "不要有牛肉"], ["ocr:RE16", "只看照片里的文字"], ["红色的圆", "画面的样子也找"],
    ],
    keys: "/ 搜索 · ← → ↑ ↓ 选择 · Enter 打开 · Esc 返回",
    found: "{n} 张照片", foundMore: "前 {n} 张照片", newest: "最新的照片", similarTo: "与此相似",
    byTextOnly: "只按文字找：{why}", nothing: "没有找到", nothingFor: "没有找到“{q}”",
    nothingHint: "换个说法，或少几个词；ocr: 开头只按文字找。", nothingFiltered: "筛选条件可能太窄。",
    nothingSimilar: "没有相似的照片", nothingSimilarHint: "别的照片都与它差得太远。",
    clearFilters: "清除筛选", noPhotos: "还没有照片", noPhotosHint: "放进文件夹或上传到 Immich 的照片会自动出现。",
    seeIndex: "看看索引", notEmbedded: "这张照片的画面还没有编入索引，所以找不到相似的。",
    textScore: "文字 第 {rank} · {score}", pictureScore: "画面 第 {rank} · {score}", similarity: "相似度 {score}",
    video: "视频", broken: "图片打不开", after: "从", before: "到", type: "类型", all: "全部",
    IMAGE: "照片", VIDEO: "视频", favorite: "只看收藏", archived: "只看已归档", album: "相册",
    person: "人物", tag: "标签", place: "地点", camera: "相机", remove: "去掉：{what}",
    close: "关闭", previous: "上一张", next: "下一张", text: "文字", copyAll: "复制全部", copied: "已复制",
    allLines: "显示全部 {n} 行", noText: "没有读到文字。", notRead: "还没有读过文字。", similar: "相似的照片", seeAll: "查看全部",
    redo: "重做", redoText: "重读文字", redoPicture: "重看画面", notMine: "这是伙伴的照片，只有主人可以重做。",
    waiting: "排队中…", running_ocr: "正在读…", running_clip: "正在看…", retrying: "没有成功，稍后再试…",
    done: "完成，用了 {s} 秒", failed: "失败：{why}", noWorker: "还在排队。工作进程在运行吗？",
    readAt: "文字读于 {when}", seenAt: "画面看于 {when}", details: "照片信息", photoFailed: "这张照片没有处理成功",
    picture: "画面", indexTitle: "索引", mine: "你的照片", everybody: "全部照片", folder: "这个文件夹的照片",
    waitingN: "等待 {n}", runningN: "进行中 {n}", retryingN: "重试中 {n}",
    failedN: "失败 {n}", allDone: "全部完成", rate: "每秒 {n} 张", slowly: "每分钟 {n} 张", left: "大约还要 {t}", noRate: "现在没有在处理",
    workers: "工作进程", worker: "{n} 个工作进程在运行", noWorkers: "没有工作进程在运行。",
    noWorkersHint: "启动一个：immich-indexer serve 或 worker",
    up: "已运行", doneN: "完成", failedCount: "失败",
    failures: "失败的照片", noFailures: "没有失败的照片。", photosN: "{n} 张", retry: "重试", retryAll: "全部重试", of: "{what}：{is}",
    retried: "{n} 个任务重新排队", live: "实时", notLive: "正在重新连接…", model: "画面模型 {name}", noModel: "还没有画面模型",
    clipAway: "画面暂时看不了：{why}", othersHidden: "别人的照片只计数，不显示。",
    signInTitle: "登录", signInHint: "在 Immich 的 账户设置 → API 密钥 里新建一个密钥，权限选 user.read、asset.read、asset.view，要重新识别照片再加 job.create。密钥只存在这个浏览器的 Cookie 里，网页脚本读不到。",
    key: "Immich 的 API 密钥", signIn: "登录", signedIn: "以 {name} 的身份登录", signOut: "退出",
    away: "网关没有回应", awayHint: "它可能正在重启。", again: "再试一次", notHere: "打不开", gone: "没有这张照片，或者不是给你看的。",
    seconds: "{n} 秒", minutes: "{n} 分钟", hours: "{n} 小时", days: "{n} 天", loading: "正在载入…",
  },
  en: {
    search: "Search photos", placeholder: "Words in the picture, or what it shows", filters: "Filters", index: "Index",
    other: "中文", otherName: "切换到中文", home: "Newest photos",
    help: [
      ["发票 2024", "both words"], ["发票 OR 收据", "either one"], ['"上海 虹桥"', "exactly this"],
      ["菜单 -牛肉", "not with 牛肉"], ["ocr:RE16", "by the text in it alone"], ["红色的圆", "also what it shows"],
    ],
    keys: "/ search · ← → ↑ ↓ choose · Enter open · Esc back",
    found: "{n} photos|{n} photo", foundMore: "first {n} photos", newest: "Newest photos", similarTo: "Similar to this",
    byTextOnly: "By text alone: {why}", nothing: "Nothing found", nothingFor: "Nothing found for “{q}”",
    nothingHint: "Try other or fewer words; ocr: at the start searches text alone.", nothingFiltered: "The filters may be too narrow.",
    nothingSimilar: "No similar photos", nothingSimilarHint: "All the others are too far from it.",
    clearFilters: "Clear filters", noPhotos: "No photos yet", noPhotosHint: "Photos put into the folder or uploaded to Immich appear by themselves.",
    seeIndex: "See the index", notEmbedded: "What this photo shows isn't indexed yet, so nothing similar can be found.",
    textScore: "text no. {rank} · {score}", pictureScore: "picture no. {rank} · {score}", similarity: "similarity {score}",
    video: "Video", broken: "Can't be shown", after: "From", before: "To", type: "Type", all: "All",
    IMAGE: "Photos", VIDEO: "Videos", favorite: "Favourites only", archived: "Archived only", album: "Album",
    person: "Person", tag: "Tag", place: "Place", camera: "Camera", remove: "Remove: {what}",
    close: "Close", previous: "Previous", next: "Next", text: "Text", copyAll: "Copy all", copied: "Copied",
    allLines: "Show all {n} lines", noText: "No text in it.", notRead: "Its text hasn't been read yet.", similar: "Similar photos", seeAll: "See all",
    redo: "Redo", redoText: "Redo text", redoPicture: "Redo picture", notMine: "A partner's photo: only its owner can have it redone.",
    waiting: "Waiting…", running_ocr: "Reading…", running_clip: "Looking…", retrying: "Didn't work; again soon…",
    done: "Done in {s} s", failed: "Failed: {why}", noWorker: "Still waiting. Is a worker running?",
    readAt: "Text read {when}", seenAt: "Picture seen {when}", details: "About this photo", photoFailed: "This photo couldn't be processed",
    picture: "Picture", indexTitle: "Index", mine: "Your photos", everybody: "Everybody's photos", folder: "Photos of this folder",
    waitingN: "{n} waiting", runningN: "{n} running", retryingN: "{n} retrying",
    failedN: "{n} failed", allDone: "All done", rate: "{n} photos a second", slowly: "{n} photos a minute", left: "about {t} left", noRate: "Nothing in progress",
    workers: "Workers", worker: "Workers running: {n}", noWorkers: "No worker is running.",
    noWorkersHint: "Start one: immich-indexer serve, or worker",
    up: "Up for", doneN: "Done", failedCount: "Failed",
    failures: "Failed photos", noFailures: "No photo has failed.", photosN: "Photos: {n}", retry: "Retry", retryAll: "Retry all", of: "{what}: {is}",
    retried: "Jobs waiting again: {n}", live: "Live", notLive: "Connecting again…", model: "CLIP model {name}", noModel: "no CLIP model yet",
    clipAway: "Pictures can't be looked at for the moment: {why}", othersHidden: "Other people's photos are counted, not shown.",
    signInTitle: "Sign in", signInHint: "In Immich, Account Settings → API Keys, make a key with the permissions user.read, asset.read and asset.view, and job.create to have photos redone. It is kept in a cookie of this browser that no script can read.",
    key: "API key of Immich", signIn: "Sign in", signedIn: "Signed in as {name}", signOut: "Sign out",
    away: "The gateway doesn't answer", awayHint: "It may be starting.", again: "Try again", notHere: "Can't be opened", gone: "There is no such photo, or it isn't yours to see.",
    seconds: "{n} s", minutes: "{n} min", hours: "{n} h", days: "{n} days", loading: "Loading…",
  },
};

const KEY = "immich-indexer-language";

function chosen() {
  const kept = localStorage.getItem(KEY);
  if (kept in TEXTS) return kept;
  const first = (navigator.languages ?? [navigator.language]).find((name) => /^(zh|en)\b/i.test(name));
  return first?.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export const language = chosen();
const locale = language === "zh" ? "zh-CN" : "en-GB";
document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";

/** The text of a key, its {names} filled in; of "many|one", what {n} asks for. */
export function t(key, values = {}) {
  const text = TEXTS[language][key];
  if (typeof text !== "string") return text;
  const [many, one = many] = text.split("|");
  return (values.n === "1" ? one : many).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export function switchLanguage() {
  localStorage.setItem(KEY, language === "zh" ? "en" : "zh");
  location.reload();
}

const numbers = new Intl.NumberFormat(locale);
const days = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeZone: "UTC" });
const moments = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });

export const number = (value) => numbers.format(value);
export const decimal = (value, digits = 2) => value.toFixed(digits);
/** Of a photo: by the clock of the place where it was taken. */
export const day = (value) => days.format(new Date(value));
export const moment = (value) => moments.format(new Date(value));

/** A duration, roughly. */
export function duration(seconds) {
  if (seconds < 90) return t("seconds", { n: Math.round(seconds) });
  if (seconds < 90 * 60) return t("minutes", { n: Math.round(seconds / 60) });
  if (seconds < 36 * 3600) return t("hours", { n: Math.round(seconds / 3600) });
  return t("days", { n: Math.round(seconds / 86400) });
}
