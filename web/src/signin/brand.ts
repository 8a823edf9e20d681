/** What the sign-in page shows of the organisation: its name and a schematic of its places (column, row; no borders). */
export interface Place {
  zh: string
  en: string
  tile: [number, number]
}

export const ORGANISATION = { zh: '安徽省总工会', en: 'Anhui Federation of Trade Unions' }

const place = (zh: string, en: string, column: number, row: number): Place => ({ zh, en, tile: [column, row] })

export const PLACES: Place[] = [
  place('合肥', 'Hefei', 3, 3), place('淮北', 'Huaibei', 3, 1), place('亳州', 'Bozhou', 2, 1), place('宿州', 'Suzhou', 4, 1),
  place('蚌埠', 'Bengbu', 4, 2), place('阜阳', 'Fuyang', 2, 2), place('淮南', 'Huainan', 3, 2), place('滁州', 'Chuzhou', 5, 2),
  place('六安', "Lu'an", 2, 3), place('马鞍山', "Ma'anshan", 4, 3), place('芜湖', 'Wuhu', 4, 4), place('宣城', 'Xuancheng', 5, 4),
  place('铜陵', 'Tongling', 3, 4), place('池州', 'Chizhou', 3, 5), place('安庆', 'Anqing', 2, 4), place('黄山', 'Huangshan', 4, 5),
  place('广德县', 'Guangde', 6, 4), place('宿松县', 'Susong', 1, 5)
]
