// Why something didn't work. Workers, gateway and database say it in English, as logs and other
// programs need it; whoever reads Chinese gets what is known in Chinese, with the original as title.
// A form for every reason that the program can give: a test reads them in its source.

import { language } from "./i18n.js";

// Beginnings to ends; {1} is what the first pair of brackets caught, translated in its turn.
const FORMS = [
  // Photos
  [/^the photo has no preview$/, "这张照片还没有预览图"],
  [/^can't read (.+): (.+)$/, "读不了文件 {1}：{2}"],
  [/^the file is empty \(0 bytes\)$/, "文件是空的（0 字节）"],
  [/^not a file$/, "不是普通文件"],
  [/^not an image in a known format \((.+)\)$/, "不是认得的图片格式（{1}）"],
  [/^damaged or truncated image file \((.+)\)$/, "图片已损坏或不完整（{1}）"],
  [/^damaged or truncated (.+) file \((.+)\)$/, "{1} 文件已损坏或不完整（{2}）"],
  [/^too little memory to decode this (.+) file$/, "内存不够，解不开这个 {1} 文件"],
  [/^(\S+) x (\S+) pixels are more than the limit of (\S+) \(MAX_IMAGE_PIXELS\)$/, "{1} × {2} 像素，超过上限 {3}（MAX_IMAGE_PIXELS）"],
  [/^(?:the file is )?larger than the limit of (\S+) \(MAX_IMAGE_BYTES\)$/, "文件太大，超过上限 {1} 字节（MAX_IMAGE_BYTES）"],
  [/^the gateway doesn't send this file: it is larger than MAX_IMAGE_BYTES there, or no file$/, "网关没有发来这个文件：超过了那边的 MAX_IMAGE_BYTES，或不是普通文件"],
  [/^(.+) took longer than (.+) s \(MAX_IMAGE_SECONDS\)$/, "太慢：{1}超过 {2} 秒（MAX_IMAGE_SECONDS）"],
  [/^the model failed: (.+)$/, "模型出错：{1}"],
  [/^the database refused the result: (.+)$/, "数据库没有收下结果：{1}"],
  [/^the worker ended (\d+) times while it worked on this photo, or the database's session did$/, "处理这张照片时，工作进程（或它的数据库会话）中断了 {1} 次"],
  [/^the photo was deleted$/, "照片已被删除"],
  [/^there is no asset with this id$/, "没有这个 ID 的照片"],
  [/^the photo has no preview yet$/, "这张照片还没有预览图"],
  [/^(?:ocr|clip): (.+)$/, "{1}"],
  [/^The image can't be read: (.+)$/, "图片读不了：{1}"],
  [/^The photo can't be read: (.+)\.$/, "照片读不了：{1}"],
  [/^decoding$/, "解码"],
  [/^ocr inference$/, "读文字"],
  [/^clip-(?:image|text) inference$/, "看画面"],
  // What the system says of a file
  [/^No such file or directory$/, "没有这个文件或文件夹"],
  [/^Permission denied$/, "没有权限"],
  [/^Input\/output error$/, "磁盘读写出错"],
  [/^Is a directory$/, "它是个文件夹"],
  [/^the gateway has no such file$/, "网关那边没有这个文件"],
  // What is away
  [/^CLIP waits: (.+)$/, "画面在等：{1}"],
  [/^(.+) is missing or empty: is the media folder mounted\?$/, "{1} 不存在或是空的：媒体文件夹挂载了吗？"],
  [/^(.+) \(PREVIEWS_URL\) doesn't answer \((.+)\): is the gateway running, and can it be reached from here\?$/, "{1}（PREVIEWS_URL）没有回应（{2}）：网关在运行吗？从这里能连上吗？"],
  [/^(.+) \(PREVIEWS_URL\) answered (.+) and no preview: (.+)$/, "{1}（PREVIEWS_URL）回答 {2}，没有预览图：{3}"],
  [/^PREVIEWS_KEY isn't the gateway's$/, "PREVIEWS_KEY 与网关的不一致"],
  [/^PREVIEWS_KEY must be set at the gateway too$/, "网关也要设 PREVIEWS_KEY"],
  [/^its log says what is away there$/, "缺什么，看它的日志"],
  [/^is it a gateway of this version\?$/, "它是同一版本的网关吗？"],
  [/^CLIP model (\S+) can't be loaded: (.+)$/, "CLIP 模型 {1} 载入失败：{2}"],
  [/^(.+)\. If (.+) is damaged, put a whole one there; DEVICE is (.+)$/, "{1}。若 {2} 已损坏，请换一份完整的；DEVICE 是 {3}"],
  [/^CLIP model (\S+): (.+)$/, "CLIP 模型 {1}：{2}"],
  [/^its weights are being downloaded from (.+) to (.+)$/, "正在下载权重，从 {1} 到 {2}"],
  [/^(its weights are missing.*); downloading it failed \((.+)\) and is tried again every (\d+) minutes$/, "{1}；下载失败（{2}），每 {3} 分钟再试一次"],
  [/^its weights are missing from this installation: (.+)$/, "安装里缺少权重：{1}"],
  [/^its weights are missing: (.+), from (.+)$/, "缺少权重：{1}，下载地址 {2}"],
  [/^put (.+) into (.+)$/, "把 {1} 放进 {2}"],
  [/^cn-clip has no model (.+)\. In Immich's settings \(Machine Learning, Smart Search\) choose one of (.+)$/, "cn-clip 没有模型 {1}。请在 Immich 的设置（机器学习 → 智能搜索）里选：{2}"],
  [/^the index is made with the CLIP model (\S+), this worker has (\S+): .+$/, "索引用的是 CLIP 模型 {1}，这个工作进程用的是 {2}：设 CLIP_MODEL={1}，或用 immich-indexer migrate --clip-model {2} 把所有照片重新看一遍"],
  [/^OCR can't be loaded \((.+)\): (.+)$/, "OCR 载入失败（{1}）：{2}"],
  [/^reinstall (\S+)$/, "请重新安装 {1}"],
  [/^look at the files in (.+)$/, "请检查 {1} 里的文件"],
  [/^(.+?)(?: hangs)?: this process has to be started anew$/, "{1}卡住了：这个进程要重新启动"],
  // What the gateway answers
  [/^The gateway is starting or stopping\.$/, "网关正在启动或停止。"],
  [/^This gateway runs without a database; set DB_URL to search\.$/, "这个网关没有数据库；要搜索，请设 DB_URL。"],
  [/^The database isn't ready for this version \((.+)\): .+$/, "数据库还不是这个版本的（{1}）：运行 immich-indexer migrate，或启动一个工作进程。"],
  [/^PostgreSQL took longer than (.+) s, or is out of reach\.$/, "PostgreSQL 超过 {1} 秒没有回应，或连不上。"],
  [/^PostgreSQL can't be used: (.+)\. Is it running, and are (.+) right\? .+$/, "PostgreSQL 用不了：{1}。它在运行吗？{2} 对吗？运行 immich-indexer doctor 会说得更多。"],
  [/^This isn't an API key of Immich's\.$/, "这不是 Immich 的 API 密钥。"],
  [/^Sign in to Immich, or send .+$/, "请登录 Immich，或使用它的 API 密钥。"],
  [/^Another web site may not do this\.$/, "别的网站不能这样做。"],
  [/^Immich doesn't take these credentials; sign in again\.$/, "Immich 不认这个登录或密钥，请重新登录。"],
  [/^Immich says these credentials may not read their user; an API key needs the permission user\.read\.$/, "这个密钥缺少权限 user.read。"],
  [/^This API key may not (?:see photos|do this); it needs the permission (.+)\.$/, "这个密钥不能这样做，缺少权限 {1}。"],
  [/^The media folder isn't mounted here \(MEDIA_MAP\), and Immich answered (.+) to (.+)\. An API key needs the permission asset\.view\.$/, "这里没有挂载媒体文件夹（MEDIA_MAP），Immich 对 {2} 回答 {1}。密钥需要权限 asset.view。"],
  [/^Set IMMICH_URL to .+$/, "请把 IMMICH_URL 设为 Immich 服务器的地址（http://immich-server:2283）：由它来说是谁在搜索。"],
  [/^Immich at (.+) \(IMMICH_URL\) doesn't answer \((.+)\), so nobody can be let in for the moment\.$/, "{1}（IMMICH_URL）的 Immich 没有回应（{2}），暂时谁也进不来。"],
  [/^Immich at (.+) \(IMMICH_URL\) doesn't say what this API key may do, so it may nothing for the moment\.$/, "{1}（IMMICH_URL）的 Immich 没有说这个密钥能做什么，所以暂时什么都不能做。"],
  [/^(.+) \(IMMICH_URL\) answered (.+) and no user; is it Immich's own server\?$/, "{1}（IMMICH_URL）回答 {2}，没有用户；它是 Immich 自己的服务器吗？"],
  [/^In folder mode there are no users, so searching is for this computer alone: .+$/, "文件夹模式没有用户，只有这台电脑能搜索：请在这里打开 http://localhost 或 http://127.0.0.1。要从别处搜索，请连接到 Immich（DB_URL、IMMICH_URL）。"],
  [/^(\d+) pages watch already; close one, or look again by hand\.$/, "已有 {1} 个页面在看；请关掉一个，或自己刷新。"],
  [/^There is no such photo, or it isn't yours(?: to see)?\.$/, "没有这张照片，或者不是给你看的。"],
  [/^This photo has just been deleted\.$/, "这张照片刚刚被删除。"],
  [/^The photo has no preview yet\.$/, "这张照片还没有预览图。"],
  [/^There is no such request, or it isn't about a photo of yours\.$/, "没有这个请求，或者它不是关于你的照片的。"],
  [/^(.+) had no turn within (\d+) s; too much is waiting before it\.$/, "{2} 秒内没有轮到：前面排队的太多。"],
  [/^(.+) is shutting down\.$/, "服务正在停止。"],
  [/^(?:.+: )?\d+ requests are waiting for .+; try again soon\.?$/, "排队的请求太多，请稍后再试。"],
  [/^Too much to do at once: .+$/, "一时太忙，请过一会儿再试。"],
];

function chinese(text) {
  for (const [form, known] of FORMS) {
    const found = form.exec(text);
    if (found) return known.replace(/\{(\d)\}/g, (_, n) => chinese(found[n]) ?? found[n]);
  }
  return null;
}

/** A reason in the page's language; what isn't known in it stays as it is. */
export function why(text) {
  return (language === "zh" && text && chinese(text.trim())) || text;
}

/** The same as an element's properties: the original as its title, where it was translated. */
export function told(text) {
  const said = why(text);
  return said === text ? { text, lang: "en" } : { text: said, title: text };
}
